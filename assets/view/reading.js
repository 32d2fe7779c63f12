// The latest reading of a field: its name, its value, its unit.

import { reading } from '../format.js'
import { html } from '../html.js'
import { split } from '../units.js'

const BARE = 'value' // says nothing that the room's name does not

export const Reading = {
  props: ['reading'],
  setup: props => () => {
    const { name, value, decimals, warns } = props.reading
    const { label, unit } = split(name)
    return html`
      <div class=${['reading', { warns }]} data-testid="reading" data-field=${name}>
        ${name !== BARE && html`<dt title=${name}><bdi>${label}</bdi></dt>`}
        <dd><b>${reading(value, decimals)}</b>${unit && html`<span class="unit">${unit}</span>`}</dd>
      </div>`
  },
}
