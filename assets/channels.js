// What is published lately, in any room: asked for again and again while somebody looks at it.

import { computed, onBeforeUnmount, onMounted, ref, shallowRef } from './vendor/vue.runtime.esm-browser.prod.js'
import { now } from './clock.js'
import { socket } from './socket.js'

const PACE = 3_000 // ms
const LISTED = 100 // more than one reads; the filter finds the rest

export const wanted = ref('') // part of a name: only those are listed
const answer = shallowRef({ channels: [], more: false, asked: 0 })

const matching = computed(() => answer.value.channels.filter(({ room }) => room.includes(wanted.value)))
const inOrder = new Intl.Collator('en', { numeric: true })
// By name, so that nothing moves away under the cursor.
export const listed = computed(() => matching.value.slice(0, LISTED).sort((a, b) => inOrder.compare(a.room, b.room)))
export const isKnown = computed(() => answer.value.asked > 0)
export const more = computed(() => answer.value.more || matching.value.length > LISTED)
export const silenceOf = channel => answer.value.asked - channel.at

let lookers = 0

function ask() {
  if (lookers === 0 || document.hidden || !socket.connected) return
  const name = wanted.value.replace(/[*?[\]\\^]/g, '\\$&')
  socket.emit('channels', `*${name}*`, ack => {
    if (ack.ok) answer.value = { ...ack, asked: now() }
  })
}

export function filter(name) {
  wanted.value = name
  ask()
}

// For the views that list channels.
export function useChannels() {
  onMounted(() => {
    lookers++
    ask()
  })
  onBeforeUnmount(() => { lookers-- })
}

socket.on('connect', ask)
setInterval(ask, PACE)
document.addEventListener('visibilitychange', ask)
