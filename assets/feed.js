// The last messages of all rooms, newest first. They wait unseen between two redraws, and while paused.

import { computed, ref, shallowRef } from './vendor/vue.runtime.esm-browser.prod.js'
import { common } from './gap.js'
import { rooms, selected } from './rooms.js'

const KEPT = 500
const OWN = 20 // of each room are kept longer: a busy one leaves those of a quiet one to look at alone

const shown = shallowRef([])
export const sought = ref('') // only messages and rooms that have this in them are shown

const isSought = ({ rooms, text }) => {
  const part = sought.value.toLowerCase()
  return rooms.some(({ name }) => name.toLowerCase().includes(part)) || text?.toLowerCase().includes(part)
}

export const visible = computed(() => {
  const chosen = selected.value === null
    ? shown.value.slice(0, KEPT)
    : shown.value.filter(({ rooms }) => rooms.some(({ name }) => name === selected.value))
  return sought.value ? chosen.filter(isSought) : chosen
})

export const paused = ref(false)
export const folded = ref(false) // only the title of the list is there
export const waiting = ref(0) // came while paused; more than are kept, perhaps

let arrived = [] // oldest first
let arrivals = 0
let unsorted = false
const begins = new Map() // rooms whose earlier entries are removed at the next redraw, with the first id that stays
let id = 0

// After the move to another server, all rooms begin anew within this time, in ms.
const MOVE = 10_000

// Two gaps of different rooms as one gap; undefined if they do not belong to the same outage.
function united(one, other) {
  if (!one.gap || one.rooms.includes(other.room)) return
  const hasMoved = one.gap.replace && other.gap.replace && Math.abs(one.arrival - other.arrival) < MOVE
  return hasMoved ? { ...one.gap, from: Math.min(one.gap.from, other.gap.from) } : common(one.gap, other.gap)
}

// An outage is one row, however many rooms it concerns: adds the room to that row. Returns whether there is one.
function addToOutage(entry) {
  const row = [...arrived, ...shown.value].find(row => united(row, entry))
  if (!row) return false
  const rooms = [...row.rooms, entry.room]
  const more = { ...row, gap: united(row, entry), rooms, ids: [...row.ids, entry.id] }
  const exchange = other => (other === row ? more : other)
  arrived = arrived.map(exchange)
  shown.value = shown.value.map(exchange)
  return true
}

export function receive(message) {
  const entry = { ...message, id: id++, arrival: Date.now() }
  if (entry.gap?.replace) begins.set(entry.room, entry.id)
  if (entry.gap && addToOutage(entry)) return
  arrived.push({ ...entry, rooms: [entry.room], ids: [entry.id] })
  arrivals++
  if (arrived.length >= 2 * KEPT) arrived = arrived.slice(-KEPT) // now and then, not for each message
}

// Says that what arrives next may be older than what is there.
export const sort = () => { unsorted = true }

// Whether no more than this many have come since the list was drawn.
export const isCalm = most => arrivals <= most

export function show() {
  if (paused.value) {
    waiting.value = arrivals
  } else if (arrivals > 0 || begins.size > 0) {
    const entries = [...arrived.reverse(), ...shown.value].map(withoutReplaced).filter(Boolean)
    if (unsorted) entries.sort((a, b) => b.at - a.at)
    unsorted = false
    shown.value = keep(entries)
    forgetArrived()
  }
}

// An entry without the rooms whose history has been replaced since; nothing if that is all of them.
function withoutReplaced(entry) {
  if (begins.size === 0) return entry
  const stay = entry.rooms.map((room, i) => !(entry.ids[i] < begins.get(room)))
  if (stay.every(Boolean)) return entry
  const rooms = entry.rooms.filter((_, i) => stay[i])
  return rooms.length > 0 && { ...entry, room: rooms[0], rooms, ids: entry.ids.filter((_, i) => stay[i]) }
}

function keep(entries) {
  const ranks = new Map()
  return entries.filter(({ room }, i) => {
    const rank = ranks.get(room) ?? 0
    ranks.set(room, rank + 1)
    return i < KEPT || (rank < OWN && rooms.get(room.name) === room)
  })
}

function forgetArrived() {
  arrived = []
  begins.clear()
  arrivals = waiting.value = 0
}

export function togglePause() {
  paused.value = !paused.value
  show()
}

export function clear() {
  shown.value = []
  forgetArrived()
}
