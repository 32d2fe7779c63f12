// The last messages of all rooms, newest first. They wait unseen between two redraws, and while paused.

import { computed, ref, shallowRef } from './vendor/vue.runtime.esm-browser.prod.js'
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
let id = 0

const sameGap = ({ gap: a, rooms }, { gap: b, room }) =>
  a && b && !a.replace && !b.replace && a.reason === b.reason && a.from === b.from && a.to === b.to && !rooms.includes(room)

// An outage is one row, however many rooms it concerns: adds the room to that row, if there is one.
function addToOutage(entry) {
  const isSame = other => sameGap(other, entry)
  if (!arrived.some(isSame) && !shown.value.some(isSame)) return false
  const add = other => (isSame(other) ? { ...other, rooms: [...other.rooms, entry.room] } : other)
  arrived = arrived.map(add)
  shown.value = shown.value.map(add)
  return true
}

export function receive(entry) {
  if (entry.gap && addToOutage(entry)) return
  arrived.push({ id: id++, rooms: [entry.room], ...entry })
  arrivals++
  if (arrived.length >= 2 * KEPT) arrived = arrived.slice(-KEPT) // now and then, not for each message
}

// Says that what arrives next may be older than what is there.
export const sort = () => { unsorted = true }

export function show() {
  if (paused.value) {
    waiting.value = arrivals
  } else if (arrivals > 0) {
    const replaced = new Map(arrived.filter(entry => entry.gap?.replace).map(entry => [entry.room, entry.id]))
    const entries = [...arrived.reverse(), ...shown.value].filter(({ room, id }) => !(id < replaced.get(room)))
    if (unsorted) entries.sort((a, b) => b.at - a.at)
    unsorted = false
    shown.value = keep(entries)
    forgetArrived()
  }
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
