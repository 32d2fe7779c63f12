// The form that publishes a message.

import { nextTick, ref } from '../vendor/vue.runtime.esm-browser.prod.js'
import { fault } from '../address.js'
import { html } from '../html.js'
import { patterns, proposal, publish } from '../publish.js'
import { rooms, selected } from '../rooms.js'

// What was typed outlives the form: it may be closed and opened again.
const channel = ref('')
const payload = ref('')
const outcome = ref({}) // of the last attempt: { published } or { problem }
const isSending = ref(false)

async function send() {
  if (isSending.value) return
  const problem = fault(channel.value) ?? (payload.value === '' ? 'A message needs a text.' : undefined)
  outcome.value = { problem }
  if (problem) return
  isSending.value = true
  outcome.value = await publish(channel.value, payload.value)
  isSending.value = false
}

const known = () => [selected.value, ...rooms.keys()].filter(name => name !== null)

export const Publish = {
  setup() {
    const field = ref(null)
    channel.value ||= proposal(known())
    nextTick(() => field.value.focus())
    const keydown = event => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) send()
    }
    return () => html`
      <form class="publish" data-testid="publish-form" aria-label="Publish a message"
        onSubmit=${event => { event.preventDefault(); send() }} onKeydown=${keydown}>
        <label for="publish-channel">Room</label>
        <input id="publish-channel" data-testid="publish-channel" value=${channel.value} onInput=${event => { channel.value = event.target.value }}
          title=${`The token allows ${patterns.value.join(', ')}`} autocomplete="off" autocapitalize="off" spellcheck="false" />
        <label for="publish-payload">Message</label>
        <textarea id="publish-payload" data-testid="publish-payload" ref=${field} rows="2" value=${payload.value}
          onInput=${event => { payload.value = event.target.value }} title="Ctrl Enter publishes" autocapitalize="off" spellcheck="false"></textarea>
        <button data-testid="publish-send" aria-disabled=${isSending.value}>Publish</button>
        <p role="status" data-testid="published">${outcome.value.published}</p>
        <p class="problem" role="alert" data-testid="publish-problem">${outcome.value.problem}</p>
      </form>`
  },
}
