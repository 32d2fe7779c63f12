// The header: the connection's state, joining a room, the theme, and what went wrong.

import { computed, ref } from '../vendor/vue.runtime.esm-browser.prod.js'
import { clock } from '../format.js'
import { html } from '../html.js'
import { addByHand } from '../rooms.js'
import { complaint, connection } from '../socket.js'
import { toggleTheme } from '../theme.js'

const State = {
  setup() {
    const text = computed(() => {
      const { state, since, refusal } = connection
      if (state === 'connected') return 'Connected'
      if (refusal) return `Refused: ${refusal}`
      return `${state === 'connecting' ? 'Connecting' : 'Reconnecting'} since ${clock(since)}`
    })
    return () => html`
      <p class="state" role="status" data-testid="state" data-state=${connection.state}>
        <span class="lamp" aria-hidden="true"></span>
        <span>${text.value}</span>
        ${connection.state === 'connected' && html`<span class="transport" aria-hidden="true">${connection.transport}</span>`}
      </p>`
  },
}

const JoinForm = {
  props: ['problem'],
  setup(props) {
    const name = ref('')
    const problem = ref(props.problem)
    const submit = event => {
      event.preventDefault()
      // Spaces around a typed name are slips. A link may name such a room exactly.
      problem.value = addByHand(name.value.trim())
      if (!problem.value) name.value = ''
    }
    const input = event => {
      name.value = event.target.value
      problem.value = ''
    }
    return () => html`
      <form class="join" onSubmit=${submit}>
        <label for="room-input">Room</label>
        <input id="room-input" data-testid="room-input" value=${name.value} onInput=${input}
          placeholder="device01" title="Press / to come here" autocomplete="off" autocapitalize="off" spellcheck="false"
          aria-invalid=${Boolean(problem.value)} aria-describedby="room-problem" />
        <button data-testid="join">Join</button>
        <p id="room-problem" role="alert" data-testid="room-problem">${problem.value}</p>
      </form>`
  },
}

export const Header = {
  props: ['problem'],
  setup: props => () => html`
    <header>
      <h1><img src="favicon.svg" alt="" width="24" height="24" />Roomcast</h1>
      <${State} />
      <${JoinForm} problem=${props.problem} />
      <button class="theme" onClick=${toggleTheme} aria-label="Switch between light and dark" title="Light or dark">
        <span aria-hidden="true">◐</span>
      </button>
      ${complaint.value && html`
        <p class="complaint" role="alert" data-testid="error">
          <span>${complaint.value}</span>
          <button onClick=${() => { complaint.value = '' }}>Dismiss</button>
        </p>`}
    </header>`,
}
