// A JSON value as a tree whose parts fold.

import { plural } from '../format.js'
import { html } from '../html.js'

const OPEN_TO = 2 // levels that are not folded at first
const MOST = 200 // entries of one level
const DEEPEST = 50 // a payload of brackets alone would exhaust the stack

const kindOf = value => (value === null ? 'null' : typeof value)

const leaf = value => html`<span class=${kindOf(value)}>${JSON.stringify(value)}</span>`

export const Json = {
  props: ['name', 'value', 'depth'],
  setup: props => () => {
    const { name, value, depth = 0 } = props
    const label = name !== undefined && html`<span class="key">${name}</span>${': '}`
    if (kindOf(value) !== 'object') return html`<div>${label}${leaf(value)}</div>`
    const entries = Object.entries(value)
    const size = Array.isArray(value) ? `[${entries.length}]` : `{${entries.length}}`
    if (depth === DEEPEST) return html`<div>${label}<span class="note">${size}, too deep for this view</span></div>`
    return html`
      <details open=${depth < OPEN_TO}>
        <summary>${label}<span class="note">${size}</span></summary>
        ${entries.slice(0, MOST).map(([key, part]) => html`<${Json} key=${key} name=${key} value=${part} depth=${depth + 1} />`)}
        ${entries.length > MOST && html`<p class="note">${plural(entries.length - MOST, 'more part')}</p>`}
      </details>`
  },
}
