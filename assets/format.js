// Times and numbers as the page writes them: always English, 24 hours, the viewer's time zone.

const two = n => String(n).padStart(2, '0')

export function clock(ms) {
  const date = new Date(ms)
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
}

export const clockMillis = ms => `${clock(ms)}.${String(new Date(ms).getMilliseconds()).padStart(3, '0')}`

export function ago(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000))
  if (seconds < 3) return 'just now'
  if (seconds < 60) return `${seconds} s ago`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`
  return `${Math.floor(seconds / 86_400)} d ago`
}

export function duration(ms) {
  const seconds = ms / 1000
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 1 : 0)} s`
  if (seconds < 120) return `${Math.round(seconds)} s`
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`
}

export const count = n => n.toLocaleString('en')

export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`

// How often something comes; `usual` is the time between two, in ms, if it is known. If
// that is below a second although less than one comes in a second, messages come in bursts and have no pace.
export function pace(perSecond, usual) {
  if (perSecond >= 1) return `${count(Math.round(perSecond))} per second`
  return usual >= 1000 ? `every ${duration(usual)}` : ''
}

const MOST_DECIMALS = 3

export const decimalsOf = value => Math.min(MOST_DECIMALS, String(value).split('.')[1]?.length ?? 0)

// A column of numbers stays aligned when all have the same decimals; the far ends get an exponent.
export function number(value, decimals) {
  const size = Math.abs(value)
  if (size >= 1e9 || (size > 0 && size < 10 ** -MOST_DECIMALS)) return value.toExponential(2)
  return value.toLocaleString('en', { minimumFractionDigits: decimals, maximumFractionDigits: decimals })
}

// A reading: a number with its decimals, a boolean, or a short text.
export function reading(value, decimals) {
  if (typeof value === 'number') return number(value, decimals)
  return typeof value === 'boolean' ? (value ? 'yes' : 'no') : value
}
