// Reads one payload: what the list shows of it, and the readings in it: numbers, booleans and short texts.

import { count } from './format.js'

// A payload may be anything of any size. These keep each one cheap.
const SHOWN = 2000 // characters in the list
const HEAD = 32 // bytes of a binary payload in the list
const PARSED = 16_384 // characters read as JSON
const FIELDS = 64 // readings taken from one payload
const STATE = 24 // characters of a text that may be a state, such as `open`
const BARE = 'value' // the name of a payload that is nothing but a reading
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

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i

const inRange = number => Number.isFinite(number) && Math.abs(number) <= LARGEST ? number : undefined

// A number, also one that is written as text; a boolean; or a short text.
function reading(value) {
  if (typeof value === 'number') return inRange(value)
  if (typeof value === 'boolean') return value
  if (typeof value !== 'string') return
  const text = value.trim()
  if (NUMBER.test(text)) return inRange(Number(text))
  return text !== '' && text.length <= STATE && !/\p{Cc}/u.test(text) ? text : undefined
}

function parse(payload) {
  if (!/^\s*([{["]|true\s*$|false\s*$)/.test(payload)) return payload
  try {
    return JSON.parse(payload)
  } catch {
    return payload // not JSON after all
  }
}

// [name, value] of what a payload tells: the fields of a JSON object, where those one level deeper are
// named `outer.inner`, or the whole of it.
export function readings(payload) {
  if (typeof payload !== 'string' || payload.length > PARSED) return []
  const parsed = parse(payload)
  if (!isObject(parsed)) return [[BARE, reading(parsed)]].filter(([, value]) => value !== undefined)
  return Object.entries(parsed)
    .flatMap(([outer, value]) => isObject(value)
      ? Object.entries(value).map(([inner, deeper]) => [`${outer}.${inner}`, deeper])
      : [[outer, value]])
    .map(([name, value]) => [name, reading(value)])
    .filter(([name, value]) => name.length <= NAME && value !== undefined)
    .slice(0, FIELDS)
}
