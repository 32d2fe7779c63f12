// Rooms as the rows of a table, with a column for each field that most of them have.

import { computed } from '../vendor/vue.runtime.esm-browser.prod.js'
import { swatch } from '../colours.js'
import { clock, pace, reading } from '../format.js'
import { html } from '../html.js'
import { leave, select, selected } from '../rooms.js'
import { split } from '../units.js'
import { Cut } from './cut.js'
import { status } from './status.js'

const COLUMNS = 6 // fields

function commonFields(list) {
  const counts = new Map()
  for (const { readings } of list) {
    for (const { name } of readings) counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  return [...counts].sort(([, a], [, b]) => b - a).slice(0, COLUMNS).map(([name]) => name)
}

const Row = {
  props: ['room', 'fields'],
  setup(props) {
    const { room } = props
    const cell = name => {
      const found = room.readings.find(reading => reading.name === name)
      const text = found ? reading(found.value, found.decimals) : ''
      return html`<td key=${name} class=${['field', { warns: found?.warns }]} data-testid="reading" data-field=${name}>${text}</td>`
    }
    return () => html`
      <tr style=${swatch(room.colour)} data-testid="room" data-room=${room.name} data-joined=${room.joined} data-stale=${room.stale}>
        <th scope="row"><button class="name" aria-pressed=${selected.value === room.name} onClick=${() => select(room.name)}
          title=${`Only ${room.name}`}><${Cut} text=${room.name} /></button></th>
        ${props.fields.map(cell)}
        <td class=${room.error ? 'error' : 'status'} data-testid="room-status"
          title=${room.tally.last && `last message ${clock(room.tally.last)}`}>${status(room)}</td>
        <td class="rate" data-testid="rate">${pace(room.rate, room.usual)}</td>
        <td><button class="leave" data-testid="leave" aria-label=${`Leave ${room.name}`} onClick=${() => leave(room.name)}>×</button></td>
      </tr>`
  },
}

const heading = name => {
  const { label, unit } = split(name)
  return html`<th key=${name} scope="col" class="field" title=${name}>${label}${unit && html` <span class="unit">${unit}</span>`}</th>`
}

export const Table = {
  props: ['list'],
  setup(props) {
    const fields = computed(() => commonFields(props.list))
    return () => html`
      <table>
        <thead><tr>
          <th scope="col">Room</th>${fields.value.map(heading)}<th scope="col">Age</th><th scope="col" class="rate">Pace</th><td></td>
        </tr></thead>
        <tbody>${props.list.map(room => html`<${Row} key=${room.name} room=${room} fields=${fields.value} />`)}</tbody>
      </table>`
  },
}
