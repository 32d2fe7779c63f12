// The header: the connection's state, joining a room, the theme, and what went wrong.

import { computed, onMounted, ref } from '../vendor/vue.runtime.esm-browser.prod.js'
import { filter, wanted } from '../channels.js'
import { clock } from '../format.js'
import { html } from '../html.js'
import { addByHand } from '../rooms.js'
import { complaint, connection } from '../socket.js'
import { toggleTheme } from '../theme.js'
import { Channels } from './channels.js'

const State = {
  setup() {
    const text = computed(() => {
      const { state, since, refusal } = connection
      if (state === 'connected') return 'Connected'
      if (refusal) return `Refused: ${refusal}`
      return `${state === 'connecting' ? 'Connecting' : 'Reconnecting'} since ${clock(since)}`
    })
    const source = computed(() => {
      const { up, since } = connection.source ?? {}
      if (since === undefined) return ''
      return `Redis ${up ? 'back' : 'away'} since ${clock(since)}`
    })
    return () => html`
      <p class="state" role="status" data-testid="state" data-state=${connection.state} data-away=${connection.source?.up === false}>
        <span class="lamp" aria-hidden="true"></span>
        <span>${text.value}</span>
        ${connection.state === 'connected' && html`<span class="transport" aria-hidden="true">${connection.transport}</span>`}
        ${source.value && html`<span class="source" data-testid="source" title="While the server has no Redis, no messages arrive">${source.value}</span>`}
      </p>`
  },
}

const JoinForm = {
  props: ['problem'],
  setup(props) {
    const form = ref(null)
    const open = ref(false) // whether the live channels are listed
    const problem = ref(props.problem)
    const submit = event => {
      event.preventDefault()
      // Spaces around a typed name are slips. A link may name such a room exactly.
      problem.value = addByHand(wanted.value.trim())
      if (problem.value) return
      filter('')
      open.value = false
    }
    const input = event => {
      filter(event.target.value)
      problem.value = ''
      open.value = wanted.value !== ''
    }
    const escape = event => {
      if (event.key !== 'Escape' || !open.value) return
      open.value = false
      if (!event.target.matches('input')) form.value.querySelector('[aria-expanded]').focus()
    }
    const outside = ({ target }) => { if (!form.value.contains(target)) open.value = false }
    onMounted(() => document.addEventListener('pointerdown', outside))
    return () => html`
      <form class="join" ref=${form} onSubmit=${submit} onKeydown=${escape}
        onFocusout=${event => { if (event.relatedTarget) outside({ target: event.relatedTarget }) }}>
        <label for="room-input">Room</label>
        <input id="room-input" data-testid="room-input" value=${wanted.value} onInput=${input}
          placeholder="device01" title="Press / to come here" autocomplete="off" autocapitalize="off" spellcheck="false"
          aria-invalid=${Boolean(problem.value)} aria-describedby="room-problem" />
        <button data-testid="join">Join</button>
        <button type="button" data-testid="channels-toggle" aria-expanded=${open.value} onClick=${() => { open.value = !open.value }}>
          Live channels
        </button>
        <p id="room-problem" role="alert" data-testid="room-problem">${problem.value}</p>
        ${open.value && html`<${Channels} />`}
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
