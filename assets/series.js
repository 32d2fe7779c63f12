// The numbers in payloads as lines over time: one chart a field, one line a room.

import { ref, shallowRef } from './vendor/vue.runtime.esm-browser.prod.js'
import { now } from './clock.js'
import { decimalsOf } from './format.js'
import { common } from './gap.js'
import { link } from './link.js'
import { Ring } from './ring.js'

// What one can look back on. A slot is about a pixel or two of a chart, so the last value in it is all
// that one could see.
export const RANGES = [
  { label: '1 min', slot: 500, slots: 120 },
  { label: '10 min', slot: 2_000, slots: 300 },
  { label: '1 h', slot: 10_000, slots: 360 },
]
const LEAST = 60_000 // ms; a young page shows one minute, not ten empty ones beside it
const MOST_FIELDS = 12
const MOST_GAPS = 20 // a room

const fields = new Map() // by name: { name, key, decimals, lines }, lines by room name
let keys = 0

export const range = ref(link.span ?? 1) // of RANGES
export const charts = shallowRef([]) // the fields to draw
export const span = shallowRef({ from: 0, to: 0, range: 1 }) // the slots to draw
export const latestGap = shallowRef() // that can be seen
export const crowded = ref(false) // there are more fields than charts

export const slotOf = (ms, { range }) => Math.floor(ms / RANGES[range].slot)

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
  if (!field.lines.has(room.name)) {
    const rings = RANGES.map(({ slots }) => new Ring(slots))
    const line = { room, rings, first: Infinity, last: -Infinity }
    const inOrder = [...field.lines.values(), line].sort((a, b) => a.room.colour - b.room.colour)
    field.lines = new Map(inOrder.map(line => [line.room.name, line]))
    field.key = keys++ // other lines make another chart
  }
  return field.lines.get(room.name)
}

export function record(room, at, numbers) {
  for (const [name, value] of numbers) {
    const field = fieldOf(name)
    if (!field) continue
    const line = lineOf(field, room)
    field.decimals = Math.max(field.decimals, decimalsOf(value))
    line.rings.forEach((ring, range) => ring.set(slotOf(at, { range }), value))
    line.first = Math.min(line.first, at)
    line.last = Math.max(line.last, at)
  }
}

// Forgets the lines and gaps of a room: what follows takes their place.
export function startOver(room) {
  room.gaps = []
  for (const field of fields.values()) {
    if (field.lines.delete(room.name)) field.key = keys++
  }
}

// Remembers that messages of a room may be missing.
export function interrupt(room, gap) {
  // One that begins no earlier than this one is part of it.
  room.gaps = [...room.gaps.filter(({ from }) => from < gap.from), gap].slice(-MOST_GAPS)
}

// The gaps of some lines that can be seen; an outage that several rooms have only once.
export function gapsOf(lines, span) {
  const seen = lines.flatMap(({ room }) => room.gaps).filter(gap => slotOf(gap.to, span) > span.from)
  const gaps = []
  for (const gap of new Map(seen.map(gap => [`${gap.reason} ${gap.from} ${gap.to}`, gap])).values()) {
    const i = gaps.findIndex(other => common(other, gap))
    if (i < 0) gaps.push(gap)
    else gaps[i] = common(gaps[i], gap)
  }
  return gaps
}

// Lines go with their room and when their last value has left the longest chart; fields go with their
// lines. So a flood of odd fields gives way to the next ones after that time.
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
  const time = now()
  const longest = RANGES.at(-1)
  expire(rooms, time - longest.slot * longest.slots)
  const lines = [...fields.values()].flatMap(field => [...field.lines.values()])
  const { slot, slots } = RANGES[range.value]
  const first = Math.min(...lines.map(line => line.first), time)
  const width = Math.min(slots, Math.max(LEAST / slot, Math.ceil((time - first) / slot) + 1))
  const to = Math.floor(time / slot)
  span.value = { from: to - width + 1, to, range: range.value }
  latestGap.value = gapsOf(lines, span.value).sort((a, b) => a.to - b.to).at(-1)
  // What most rooms have in common comes first.
  charts.value = [...fields.values()].sort((a, b) => b.lines.size - a.lines.size)
}

// uPlot's columns: seconds since 1970, then each line's values. Between two values of a line there is
// undefined, which uPlot draws over, or null where there was a gap or much more silence than usual.
export function columns(lines, span) {
  const { from, to, range } = span
  const xs = []
  for (let slot = from; slot <= to; slot++) xs.push(slot * RANGES[range].slot / 1000)
  return [xs, ...lines.map(line => values(line, span))]
}

const LEAST_SILENCE = 10_000 // ms

function values({ room, rings }, span) {
  const { from, to, range } = span
  const ys = new Array(to - from + 1)
  const held = []
  for (let slot = from; slot <= to; slot++) {
    const value = rings[range].get(slot)
    if (value === undefined) continue
    ys[slot - from] = value
    held.push(slot - from)
  }
  const usual = (held.at(-1) - held[0]) / (held.length - 1)
  const silence = Math.max(LEAST_SILENCE / RANGES[range].slot, 4 * usual || 0)
  const starts = room.gaps.map(gap => slotOf(gap.from, span) - from)
  for (let i = 1; i < held.length; i++) {
    const broken = starts.some(start => held[i - 1] <= start && start < held[i])
    if (broken && held[i] - held[i - 1] === 1) ys[held[i]] = null // there is no room for a break but this
    else if (broken || held[i] - held[i - 1] > silence) ys.fill(null, held[i - 1] + 1, held[i])
  }
  return ys
}
