// The numbers in payloads as lines over time: one chart a field, one line a room.

import { ref, shallowRef } from './vendor/vue.runtime.esm-browser.prod.js'
import { now } from './clock.js'
import { decimalsOf } from './format.js'
import { Ring } from './ring.js'

const SLOT = 500 // ms; about a pixel of a chart, so the last value in it is all one could see
const SLOTS = 600 // five minutes
const FIRST_SLOTS = 120 // a young page shows one minute, not four empty ones beside it
const MOST_FIELDS = 12
const MOST_LINES = 16 // a field
const MOST_GAPS = 20 // a room

const fields = new Map() // by name: { name, key, decimals, lines }, lines by room name
let keys = 0

export const charts = shallowRef([]) // the fields to draw
export const span = shallowRef({ from: 0, to: 0 }) // the slots to draw
export const latestGap = shallowRef() // that can be seen
export const crowded = ref(false) // there are more fields than charts

const slotOf = ms => Math.floor(ms / SLOT)

function fieldOf(name) {
  if (!fields.has(name)) {
    if (fields.size >= MOST_FIELDS) {
      crowded.value = true
      return
    }
    fields.set(name, { name, decimals: 0, lines: new Map() })
  }
  return fields.get(name)
}

function lineOf(field, room) {
  if (!field.lines.has(room.name) && field.lines.size < MOST_LINES) {
    const line = { room, ring: new Ring(SLOTS), first: Infinity, last: -Infinity }
    const inOrder = [...field.lines.values(), line].sort((a, b) => a.room.colour - b.room.colour)
    field.lines = new Map(inOrder.map(line => [line.room.name, line]))
    field.key = keys++ // other lines make another chart
  }
  return field.lines.get(room.name)
}

export function record(room, at, numbers) {
  const slot = slotOf(at)
  for (const [name, value] of numbers) {
    const field = fieldOf(name)
    const line = field && lineOf(field, room)
    if (!line) continue
    field.decimals = Math.max(field.decimals, decimalsOf(value))
    line.ring.set(slot, value)
    line.first = Math.min(line.first, slot)
    line.last = Math.max(line.last, slot)
  }
}

// Remembers that messages of a room may be missing.
export function interrupt(room, gap) {
  // One that begins no earlier than this one is part of it.
  room.gaps = [...room.gaps.filter(({ from }) => from < gap.from), gap].slice(-MOST_GAPS)
}

// The gaps of some lines that can be seen; one that several rooms have only once.
export function gapsOf(lines, { from }) {
  const seen = lines.flatMap(({ room }) => room.gaps).filter(gap => slotOf(gap.to) > from)
  return [...new Map(seen.map(gap => [`${gap.reason} ${gap.from} ${gap.to}`, gap])).values()]
}

// Lines go with their room and when their last value has left the chart; fields go with their lines.
// So a flood of odd fields gives way to the next ones after five minutes.
function expire(rooms, oldest) {
  for (const field of fields.values()) {
    for (const [name, line] of field.lines) {
      if (rooms.get(name) === line.room && line.last >= oldest) continue
      field.lines.delete(name)
      field.key = keys++
    }
    if (field.lines.size > 0) continue
    fields.delete(field.name)
    crowded.value = false
  }
}

export function refresh(rooms) {
  const to = slotOf(now())
  expire(rooms, to - SLOTS + 1)
  const lines = [...fields.values()].flatMap(field => [...field.lines.values()])
  const first = Math.min(...lines.map(line => line.first), to)
  const width = Math.min(SLOTS, Math.max(FIRST_SLOTS, to - first + 1))
  span.value = { from: to - width + 1, to }
  latestGap.value = gapsOf(lines, span.value).sort((a, b) => a.to - b.to).at(-1)
  charts.value = [...fields.values()]
}

// uPlot's columns: seconds since 1970, then each line's values. Between two values of a line there is
// undefined, which uPlot draws over, or null where there was a gap or much more silence than usual.
export function columns(field, { from, to }) {
  const xs = []
  for (let slot = from; slot <= to; slot++) xs.push(slot * SLOT / 1000)
  return [xs, ...Array.from(field.lines.values(), line => values(line, from, to))]
}

const LEAST_SILENCE = 20 // slots

function values({ room, ring }, from, to) {
  const ys = new Array(to - from + 1)
  const held = []
  for (let slot = from; slot <= to; slot++) {
    const value = ring.get(slot)
    if (value === undefined) continue
    ys[slot - from] = value
    held.push(slot - from)
  }
  const usual = (held.at(-1) - held[0]) / (held.length - 1)
  const silence = Math.max(LEAST_SILENCE, 4 * usual || 0)
  const starts = room.gaps.map(gap => slotOf(gap.from) - from)
  for (let i = 1; i < held.length; i++) {
    const broken = starts.some(start => held[i - 1] <= start && start < held[i])
    if (broken && held[i] - held[i - 1] === 1) ys[held[i]] = null // there is no room for a break but this
    else if (broken || held[i] - held[i - 1] > silence) ys.fill(null, held[i - 1] + 1, held[i])
  }
  return ys
}
