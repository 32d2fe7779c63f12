// One card a room: how much it hears, how lately; click to look at it alone, or leave it.

import { computed } from '../vendor/vue.runtime.esm-browser.prod.js'
import { swatch } from '../colours.js'
import { ago, clock, duration, plural, rate } from '../format.js'
import { html } from '../html.js'
import { leave, rooms, select, selected } from '../rooms.js'

// A bar for each second, as high as its messages against the busiest one's.
function bars(seconds) {
  const most = Math.max(...seconds)
  return seconds.map((n, i) => n && `M${i + 0.5} 1V${1 - Math.max(0.06, n / most)}`).filter(Boolean).join('')
}

const Card = {
  props: ['room'],
  setup({ room }) {
    const path = computed(() => bars(room.seconds))
    const status = computed(() => {
      if (room.error) return room.error
      if (room.silence === null) return room.joined ? 'no message yet' : 'not joined yet'
      return room.stale
        ? `stale: silent for ${duration(room.silence)}`
        : `${plural(room.count, 'message')}, ${ago(room.silence)}`
    })
    return () => html`
      <li class="room" style=${swatch(room.colour)} data-testid="room" data-room=${room.name} data-joined=${room.joined} data-stale=${room.stale}>
        <button class="name" aria-pressed=${selected.value === room.name} onClick=${() => select(room.name)}
          title=${`Only ${room.name}`}><bdi>${room.name}</bdi></button>
        <button class="leave" data-testid="leave" aria-label=${`Leave ${room.name}`} onClick=${() => leave(room.name)}>×</button>
        <p class="rate" data-testid="rate"><b>${rate(room.rate)}</b> <span>per second</span></p>
        <svg class="bars" viewBox="0 0 60 1" preserveAspectRatio="none" aria-hidden="true"><path d=${path.value} /></svg>
        <p class=${room.error ? 'error' : 'status'} data-testid="room-status"
          title=${room.tally.last && `last message ${clock(room.tally.last)}`}>${status.value}</p>
      </li>`
  },
}

export const Rooms = {
  setup: () => () => html`
    <section class="rooms" aria-label="Rooms">
      <ul>${Array.from(rooms.values(), room => html`<${Card} key=${room.name} room=${room} />`)}</ul>
    </section>`,
}
