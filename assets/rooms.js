// The rooms on this page: joining, leaving, and what each has heard.

import { ref, shallowReactive } from './vendor/vue.runtime.esm-browser.prod.js'
import { fault, MOST_ROOMS, readRooms, writeRooms } from './address.js'
import { compare } from './build.js'
import { now } from './clock.js'
import { decimalsOf } from './format.js'
import { exceeds, link } from './link.js'
import { learnPatterns } from './publish.js'
import { Ring } from './ring.js'
import { connection, socket, watch } from './socket.js'
import { SECONDS, Tally } from './tally.js'

const FIRST_ROOM = 'device01' // where the address names none
// Messages of the past to begin with, so that a page is never blank: of all rooms, and of each.
const PAST = { all: 6000, most: 600, least: 50 }
const READINGS = 24 // kept of a room

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

let wantedRooms = 1 // how many the address names
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
    latest: new Map(), // readings by their name: { value, decimals }
    line: { name: null, ring: new Ring(SECONDS + 1) }, // of the first number that came
    // Copied once a second, so that a busy room does not redraw for each message:
    count: 0, rate: 0, usual: 0, silence: null, stale: false, warns: false, seconds: [], readings: [], values: [],
  })
  rooms.set(name, room)
  room.stop = watch(name, (payload, meta) => listener.message(room, payload, meta), {
    last: Math.max(PAST.least, Math.min(PAST.most, Math.floor(PAST.all / wantedRooms))),
    onGap: gap => listener.gap(room, gap),
    onError: ({ code, message }) => { room.error = `${message} (${code})` },
    onJoin: ack => {
      compare(ack.server)
      learnPatterns(ack)
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
  wantedRooms = Math.max(1, names.size)
  const faults = Array.from(names.size ? names : [FIRST_ROOM], add)
  return faults.find(Boolean)
}

// Adds a room and puts it into the address.
export function addByHand(name) {
  const wrong = add(name)
  if (!wrong) writeRooms(rooms.keys())
  return wrong
}

// Remembers what a message tells.
export function learn(room, at, readings) {
  for (const [name, value] of readings) {
    const before = room.latest.get(name)
    if (!before && room.latest.size >= READINGS) continue
    const isNumber = typeof value === 'number'
    const decimals = isNumber ? Math.max(before?.decimals ?? 0, decimalsOf(value)) : 0
    room.latest.set(name, { value, decimals })
    if (isNumber) room.line.name ??= name
    if (name === room.line.name && isNumber) room.line.ring.set(Math.floor(at / 1000), value)
  }
}

// Forgets what is known of a room, which begins anew.
export function startOver(room) {
  room.tally = new Tally()
  room.latest = new Map()
  room.line = { name: null, ring: new Ring(SECONDS + 1) }
}

export function refresh() {
  const time = now()
  const second = Math.floor(time / 1000)
  // Without Redis, no device can be heard.
  const isAway = connection.source?.up === false
  for (const room of rooms.values()) {
    const { count, last } = room.tally
    room.count = count
    room.rate = room.tally.rate(time)
    room.usual = room.tally.usual()
    room.silence = last && time - last
    room.stale = room.joined && !isAway && room.silence > room.tally.patience()
    room.seconds = room.tally.seconds(time)
    room.readings = Array.from(room.latest, ([name, { value, decimals }]) => {
      return { name, value, decimals, warns: exceeds(link.warnings, name, value) }
    })
    room.warns = room.readings.some(({ warns }) => warns)
    room.values = Array.from({ length: SECONDS }, (_, i) => room.line.ring.get(second - SECONDS + 1 + i))
  }
}
