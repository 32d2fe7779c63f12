// Viewers that come and go in every way there is, some that stop reading, and one that stays and
// holds the server to its word.

import { setTimeout as pause } from 'node:timers/promises'
import { clientOnLine } from '../../tests/node/cut.mjs'
import { startCable } from '../../tests/node/support.mjs'
import { KINDS, open } from '../../tests/node/viewer.mjs'
import { Owner } from '../owner.mjs'

export const ROOMS = Array.from({ length: 9 }, (_, room) => `soak:${room}`)
export const HEAVY = 'soak:heavy' // its messages fill what a connection buffers

const OPTIONS = [
  undefined,
  { meta: true },
  { last: 50 },
  { meta: true, last: 100 },
  { meta: true, since: { epoch: 'of another run', offset: 1 }, last: 20 },
  { latest: true },
  { maxRate: 2 },
]

// Has somebody sit here until `over`: one viewer after the other, each gone after 1 to 20 seconds.
export async function seat(live, random, page, over, lives) {
  while (!over.aborted) {
    const owner = new Owner()
    const stay = (least, most) =>
      pause(1000 * (least + random() * (most - least)), undefined, { signal: over }).catch(() => {})
    try {
      await live(owner, random, page, stay)
      lives.count++
    } finally {
      await owner.end()
    }
  }
}

const any = (random, list) => list[Math.floor(random() * list.length)]

// Comes by any client and transport, joins, leaves, and goes politely or not.
export async function passer(owner, random, page, stay) {
  const abrupt = random() < 0.5
  const way = abrupt ? await startCable(owner, page) : { url: page }
  const viewer = open(owner, way.url, any(random, KINDS))
  viewer.messages = { push() {} } // what it hears is not looked at, and would only fill this process
  const rooms = Array.from({ length: 1 + Math.floor(random() * 3) }, () => any(random, ROOMS))
  if (random() < 0.1) rooms.push(HEAVY)
  for (const room of rooms) viewer.socket.emit('channel', room, ...[any(random, OPTIONS)].filter(Boolean))
  await stay(0.2, 12)
  if (random() < 0.5) viewer.socket.emit('leave', rooms[0])
  await stay(0.2, 8)
  if (abrupt) way.cut()
}

// Reads Server-Sent Events, and breaks off.
export async function reader(owner, random, page, stay) {
  const breaking = new AbortController()
  owner.after(() => breaking.abort())
  const { body } = await fetch(new URL(`events/${any(random, ROOMS)}?last=10`, page), { signal: breaking.signal })
  const read = body.pipeTo(new WritableStream()).catch(() => {})
  await stay(1, 15)
  breaking.abort()
  await read
}

// Stops reading, until the server or we have had enough.
export async function sleeper(owner, random, page, stay) {
  const { line, socket } = clientOnLine(page, { reconnection: false })
  owner.after(() => (socket.close(), line.socket?.destroy()))
  const joined = new Promise(resolve => {
    socket.on('connect', () => socket.emit('channel', HEAVY, resolve))
    socket.on('connect_error', resolve)
  })
  await joined
  line.stopReading()
  await stay(10, 20)
}

// Watches a room from the beginning to the end: a message that is missing must be told.
export async function witness(owner, page) {
  const { socket } = clientOnLine(page)
  owner.after(() => socket.close())
  const seen = { messages: 0, gaps: 0, holes: 0, disconnects: 0, leave: () => socket.off('disconnect').close() }
  let last
  let told = false
  socket.on('disconnect', () => seen.disconnects++)
  socket.on('gap', () => { seen.gaps++; told = true })
  socket.on('message', (_, { epoch, offset }) => {
    const follows = epoch === last.epoch ? offset === last.offset + 1 : told && offset === 1
    if (!follows) seen.holes++
    if (epoch !== last.epoch) told = false
    seen.messages++
    last = { epoch, offset }
  })
  last = await new Promise(resolve => {
    socket.on('connect', () => socket.emit('channel', ROOMS[0], { meta: true }, resolve))
  })
  return seen
}
