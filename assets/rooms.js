// The rooms on this page: joining, leaving, and what each has heard.

import { ref, shallowReactive } from './vendor/vue.runtime.esm-browser.prod.js'
import { fault, MOST_ROOMS, readRooms, writeRooms } from './address.js'
import { compare } from './build.js'
import { now } from './clock.js'
import { socket, watch } from './socket.js'
import { Tally } from './tally.js'

const FIRST_ROOM = 'device01' // where the address names none
const PAST = 50 // messages to begin with, so that a page is never blank

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

let listener // hears of every join, message and gap with its room: { join, message, gap }

// Adds a room and watches it. Returns what is wrong with the name, if something is.
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
    gaps: [], // of the charts' time
    // Copied from the tally once a second, so that a busy room does not redraw for each message:
    count: 0, rate: 0, silence: null, stale: false, seconds: [],
  })
  rooms.set(name, room)
  room.stop = watch(name, (payload, meta) => listener.message(room, payload, meta), {
    last: PAST,
    onGap: gap => listener.gap(room, gap),
    onError: ({ code, message }) => { room.error = `${message} (${code})` },
    onJoin: ({ server }) => {
      compare(server)
      Object.assign(room, { joined: true, error: '' })
      listener.join(room)
    },
  })
}

export function leave(name) {
  rooms.get(name).stop()
  rooms.delete(name)
  if (selected.value === name) selected.value = null
  writeRooms(rooms.keys())
}

socket.on('disconnect', () => rooms.forEach(room => { room.joined = false }))

// Watches what the address names. Returns what is wrong with the first bad name, if one is.
export function openAddress(hearing) {
  listener = hearing
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
    room.stale = room.joined && room.silence > room.tally.patience()
    room.seconds = room.tally.seconds(time)
  }
}
