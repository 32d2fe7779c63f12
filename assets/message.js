// Reads one payload: what the list shows of it, and the numbers in it that a chart can draw.

import { count } from './format.js'

// A payload may be anything of any size. These keep each one cheap.
const SHOWN = 2000 // characters in the list
const HEAD = 32 // bytes of a binary payload in the list
const PARSED = 16_384 // characters read as JSON
const FIELDS = 64 // numbers taken from one payload
const NAME = 64 // characters of a field's name
const LARGEST = 1e15 // beyond, neighbouring doubles are too far apart for an axis

// What to show of a payload, and a note on what is not shown.
export function preview(payload) {
  if (payload instanceof ArrayBuffer) {
    const head = new Uint8Array(payload, 0, Math.min(HEAD, payload.byteLength))
    const hex = Array.from(head, byte => byte.toString(16).padStart(2, '0')).join(' ')
    return { text: payload.byteLength > HEAD ? `${hex} …` : hex, note: `binary, ${count(payload.byteLength)} bytes` }
  }
  if (payload.length <= SHOWN) return { text: payload, note: '' }
  // A slice keeps its whole string alive; only a clone lets a large payload go.
  const text = structuredClone(payload.slice(0, SHOWN))
  return { text: `${text}…`, note: `${count(payload.length - SHOWN)} more characters` }
}

const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value)

// [name, value] of a JSON object's numbers; those one level deeper are named `outer.inner`.
export function numbers(payload) {
  if (typeof payload !== 'string' || payload.length > PARSED || !/^\s*\{/.test(payload)) return []
  let parsed
  try {
    parsed = JSON.parse(payload)
  } catch {
    return [] // not JSON after all: the list shows it
  }
  return Object.entries(parsed)
    .flatMap(([outer, value]) => isObject(value)
      ? Object.entries(value).map(([inner, deeper]) => [`${outer}.${inner}`, deeper])
      : [[outer, value]])
    .filter(([name, value]) => name.length <= NAME && Number.isFinite(value) && Math.abs(value) <= LARGEST)
    .slice(0, FIELDS)
}
