// What the link says about the look of the page, besides its rooms:
//
//   ?kiosk                      nothing to click, for a wall
//   ?theme=dark                 or light
//   ?only=chart                 or tiles, or list
//   ?span=10m                   how far back charts go: 1m, 10m or 1h
//   ?warn=temperature_c>60      marks values beyond a limit; may be repeated

const SPANS = ['1m', '10m', '1h']
const PARTS = ['chart', 'tiles', 'list']
const THEMES = ['light', 'dark']
const WARNING = /^([^<>]{1,64})([<>])(-?\d{1,15}(?:\.\d{1,6})?)$/
const MOST_WARNINGS = 32

// Reads a query. What it does not understand is in `ignored`, as `name=value`.
export function read(search) {
  const link = { kiosk: false, theme: null, only: null, span: null, warnings: [], ignored: [] }
  const takes = {
    room: () => true,
    kiosk: () => { link.kiosk = true },
    theme: value => THEMES.includes(value) && (link.theme = value),
    only: value => PARTS.includes(value) && (link.only = value),
    span: value => SPANS.includes(value) && (link.span = SPANS.indexOf(value)),
    warn: value => {
      const [, name, sign, limit] = WARNING.exec(value) ?? []
      if (!name || link.warnings.length >= MOST_WARNINGS) return false
      link.warnings.push({ name, sign, limit: Number(limit) })
    },
  }
  for (const [name, value] of new URLSearchParams(search)) {
    const isTaken = Object.hasOwn(takes, name) && takes[name](value) !== false
    if (!isTaken) link.ignored.push(value ? `${name}=${value}` : name)
  }
  return link
}

// Whether a value is beyond a limit of its field.
export const exceeds = (warnings, name, value) => typeof value === 'number' && warnings.some(warning =>
  warning.name === name && (warning.sign === '>' ? value > warning.limit : value < warning.limit))

export const link = read(globalThis.location?.search ?? '')
