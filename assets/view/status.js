// How a room is doing, in a few words.

import { ago, duration } from '../format.js'

export function status(room) {
  if (room.error) return room.error
  if (room.silence === null) return room.joined ? 'no message yet' : 'not joined yet'
  return room.stale ? `stale: silent for ${duration(room.silence)}` : ago(room.silence)
}
