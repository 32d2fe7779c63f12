// The rooms on this page: joining, leaving, and what each has heard.

import { ref, shallowReactive } from './vendor/vue.runtime.esm-browser.prod.js'
import { fault, MOST_ROOMS, readRooms, writeRooms } from './address.js'
import { now } from './clock.js'
import { socket } from './socket.js'
import { Tally } from './tally.js'

const FIRST_ROOM = 'device01' // where the address names none
const PATIENCE = 10_000 // ms to wait for an ack

export const rooms = shallowReactive(new Map()) // by name, in the order they were joined

// The one room to look at, or null for all.
export const selected = ref(null)

export const select = name => { selected.value = selected.value === name ? null : name }

function freeColour() {
  const taken = new Set(Array.from(rooms.values(), room => room.colour))
  let colour = 0
  while (taken.has(colour)) colour++
  return colour
}

// Adds a room and joins it. Returns what is wrong with the name, if something is.
export function add(name) {
  if (rooms.has(name)) return `“${name}” is already here.`
  if (rooms.size >= MOST_ROOMS) return `A page shows at most ${MOST_ROOMS} rooms.`
  const wrong = fault(name)
  if (wrong) return wrong
  const room = shallowReactive({
    name,
    colour: freeColour(),
    joined: false,
    error: '',
    tally: new Tally(),
    // Copied from the tally once a second, so that a busy room does not redraw for each message:
    count: 0, rate: 0, silence: null, seconds: [],
  })
  rooms.set(name, room)
  if (socket.connected) join(room)
}

export function leave(name) {
  rooms.delete(name)
  if (selected.value === name) selected.value = null
  writeRooms(rooms.keys())
  // The server forgets the rooms of a connection that is gone.
  if (socket.connected) socket.emit('leave', name, () => {})
}

function join(room) {
  room.error = ''
  socket.timeout(PATIENCE).emit('channel', room.name, { meta: true }, (late, ack) => {
    if (!socket.connected) return // asked again on the next connect
    room.joined = !late && ack.ok
    if (late) room.error = 'The server did not answer.'
    else if (!ack.ok) room.error = `${ack.error.message} (${ack.error.code})`
  })
}

socket.on('connect', () => rooms.forEach(join))
socket.on('disconnect', () => rooms.forEach(room => { room.joined = false }))

// Joins what the address names. Returns what is wrong with the first bad name, if one is.
export function openAddress() {
  const names = new Set(readRooms())
  const faults = Array.from(names.size ? names : [FIRST_ROOM], add)
  return faults.find(Boolean)
}

// Adds a room and puts it into the address.
export function addByHand(name) {
  const wrong = add(name)
  if (!wrong) writeRooms(rooms.keys())
  return wrong
}

export function refresh() {
  const time = now()
  for (const room of rooms.values()) {
    const { count, last } = room.tally
    room.count = count
    room.rate = room.tally.rate(time)
    room.silence = last && time - last
    room.seconds = room.tally.seconds(time)
  }
}
