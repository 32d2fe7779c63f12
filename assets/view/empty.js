// While there is nothing to show: how to publish something.

import { computed, ref } from '../vendor/vue.runtime.esm-browser.prod.js'
import { copy } from '../copy.js'
import { clock } from '../format.js'
import { html } from '../html.js'
import { rooms, selected } from '../rooms.js'
import { connection } from '../socket.js'
import { Channels } from './channels.js'

// Links of strangers name rooms, and people paste these lines into shells of all kinds:
// only a name that means nothing to any of them is written out.
const HARMLESS = /^[\p{L}\p{N}_][\p{L}\p{N}_.:/-]*$/u

const COPIED = 2_000 // ms to say so

const Command = {
  props: ['text'],
  setup(props) {
    const copied = ref(false)
    const code = ref(null)
    const take = async () => {
      copied.value = await copy(props.text, code.value)
      if (copied.value) setTimeout(() => { copied.value = false }, COPIED)
    }
    return () => html`
      <div class="command">
        <code ref=${code}>${props.text}</code>
        <button onClick=${take} aria-label=${`Copy: ${props.text}`}>${copied.value ? 'Copied' : 'Copy'}</button>
      </div>`
  },
}

export const Empty = {
  setup() {
    const room = computed(() => {
      const name = selected.value ?? rooms.keys().next().value
      return name !== undefined && HARMLESS.test(name) ? name : 'ROOM'
    })
    const obstacle = computed(() => {
      const { state, since, refusal } = connection
      if (refusal) {
        const text = `${refusal[0].toUpperCase()}${refusal.slice(1)}. Ask whoever runs this page for a new link, and open it in this tab.`
        return { title: 'The server does not let this page in', text }
      }
      if (state !== 'connected') return { title: 'Not connected', text: `No answer from the server since ${clock(since)}. The page tries again by itself.` }
      const errors = Array.from(rooms.values(), room => room.error)
      if (errors.length > 0 && errors.every(Boolean)) return { title: 'No room could be opened', text: errors[0], hasOthers: true }
    })
    return () => obstacle.value
      ? html`
        <div class="empty" data-testid="obstacle">
          <h3>${obstacle.value.title}</h3>
          <p>${obstacle.value.text}</p>
          ${obstacle.value.hasOthers && html`<h3>Live now, and open to you</h3><${Channels} />`}
        </div>`
      : html`
        <div class="empty" data-testid="empty">
          <h3>Live now</h3>
          <${Channels} />
          <p>${rooms.size === 0 ? 'Choose a room above. ' : 'Nothing here yet. '}To publish something:</p>
          <${Command} text=${`redis-cli publish ${room.value} hello`} />
          <${Command} text=${`roomcast publish ${room.value} '{"temperature_c": 21.5}'`} />
          <p>The page shows the latest values, and draws numbers as charts.</p>
        </div>`
  },
}
