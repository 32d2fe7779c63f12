// A room as a card: its latest values, how the first of them went in the last minute, and its age.

import { computed } from '../vendor/vue.runtime.esm-browser.prod.js'
import { swatch } from '../colours.js'
import { clock, pace } from '../format.js'
import { html } from '../html.js'
import { leave, select, selected } from '../rooms.js'
import { Cut } from './cut.js'
import { Reading } from './reading.js'
import { status } from './status.js'

const SHOWN = 4 // readings

// A bar for each second, as high as its messages against the busiest one's.
function bars(seconds) {
  const most = Math.max(...seconds)
  return seconds.map((n, i) => n && `M${i + 0.5} 1V${1 - Math.max(0.06, n / most)}`).filter(Boolean).join('')
}

const PAUSE = 4 // usual intervals; a line is not drawn over a longer silence
const LEAST_PAUSE = 15 // seconds

// A line through the values of each second; one that does not change is in the middle.
function line(values, usual) {
  const pause = Math.max(LEAST_PAUSE, PAUSE * usual / 1000)
  const held = values.flatMap((value, i) => (value === undefined ? [] : [[i, value]]))
  const [least, most] = [Math.min, Math.max].map(of => of(...held.map(([, value]) => value)))
  const height = value => (most > least ? 0.95 - 0.9 * (value - least) / (most - least) : 0.5)
  const points = held.map(([i, value], n) => {
    const begins = n === 0 || i - held[n - 1][0] > pause
    return `${begins ? 'M' : 'L'}${i + 0.5} ${height(value).toFixed(3)}${begins ? 'h.1' : ''}`
  })
  return points.join('')
}

export const Card = {
  props: ['room'],
  setup({ room }) {
    const path = computed(() => line(room.values, room.usual))
    const rest = computed(() => room.readings.length - SHOWN)
    return () => html`
      <li class="room" style=${swatch(room.colour)} data-testid="room" data-room=${room.name} data-joined=${room.joined} data-stale=${room.stale} data-warns=${room.warns}>
        <button class="name" aria-pressed=${selected.value === room.name} onClick=${() => select(room.name)}
          title=${`Only ${room.name}`}><${Cut} text=${room.name} /></button>
        <button class="leave" data-testid="leave" aria-label=${`Leave ${room.name}`} onClick=${() => leave(room.name)}>×</button>
        <dl class="readings">
          ${room.readings.slice(0, SHOWN).map(reading => html`<${Reading} key=${reading.name} reading=${reading} />`)}
        </dl>
        <svg class=${path.value ? 'line' : 'bars'} viewBox="0 0 60 1" preserveAspectRatio="none" aria-hidden="true">
          <path d=${path.value || bars(room.seconds)} /></svg>
        <p class=${room.error ? 'error' : 'status'} data-testid="room-status"
          title=${room.tally.last && `last message ${clock(room.tally.last)}`}>${status(room)}</p>
        <p class="rate" data-testid="rate">
          ${[rest.value > 0 && `${rest.value} more fields`, pace(room.rate, room.usual)].filter(Boolean).join(', ')}
        </p>
      </li>`
  },
}
