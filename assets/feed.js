// The last messages of all rooms, newest first. They wait unseen between two redraws, and while paused.

import { computed, ref, shallowRef } from './vendor/vue.runtime.esm-browser.prod.js'
import { selected } from './rooms.js'

const KEPT = 500

const shown = shallowRef([])
export const visible = computed(() => selected.value === null
  ? shown.value
  : shown.value.filter(entry => entry.room.name === selected.value))

export const paused = ref(false)
export const waiting = ref(0) // came while paused; more than are kept, perhaps

let arrived = [] // oldest first
let arrivals = 0
let id = 0

export function receive(entry) {
  arrived.push({ id: id++, ...entry })
  arrivals++
  if (arrived.length >= 2 * KEPT) arrived = arrived.slice(-KEPT) // now and then, not for each message
}

export function show() {
  if (paused.value) {
    waiting.value = arrivals
  } else if (arrivals > 0) {
    shown.value = [...arrived.reverse(), ...shown.value].slice(0, KEPT)
    forgetArrived()
  }
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
