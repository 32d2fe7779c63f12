// The header: the connection's state, joining a room, the theme, and what went wrong.

import { computed, nextTick, onMounted, ref } from '../vendor/vue.runtime.esm-browser.prod.js'
import { filter, listed, wanted } from '../channels.js'
import { clock } from '../format.js'
import { html } from '../html.js'
import { addByHand, rooms } from '../rooms.js'
import { complaint, connection } from '../socket.js'
import { toggleTheme } from '../theme.js'
import { optionId, Options } from './channels.js'

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

// One field: a name that is typed, or one of those that are live.
const RoomInput = {
  props: ['problem'],
  setup(props) {
    const form = ref(null)
    const open = ref(false) // whether the live channels are listed
    const active = ref(-1) // the one that the arrow keys are at
    const problem = ref(props.problem)
    const close = () => {
      open.value = false
      active.value = -1
    }
    const choose = name => {
      problem.value = rooms.has(name) ? '' : addByHand(name)
      if (problem.value) return
      filter('')
      close()
    }
    const submit = event => {
      event.preventDefault()
      // Spaces around a typed name are slips. A link may name such a room exactly.
      choose(listed.value[active.value]?.room ?? wanted.value.trim())
    }
    const input = event => {
      filter(event.target.value)
      problem.value = ''
      active.value = -1
      open.value = true
    }
    const keydown = event => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
      if (event.key === 'Escape') close()
      if (!step || listed.value.length === 0) return
      event.preventDefault()
      open.value = true
      active.value = (Math.max(active.value, step < 0 ? 0 : -1) + step + listed.value.length) % listed.value.length
      nextTick(() => document.getElementById(optionId(active.value))?.scrollIntoView({ block: 'nearest' }))
    }
    const outside = ({ target }) => { if (!form.value.contains(target)) close() }
    onMounted(() => document.addEventListener('pointerdown', outside))
    return () => html`
      <form class="join" ref=${form} onSubmit=${submit} onKeydown=${keydown}
        onFocusout=${event => { if (event.relatedTarget) outside({ target: event.relatedTarget }) }}>
        <label for="room-input">Room</label>
        <input id="room-input" data-testid="room-input" value=${wanted.value} onInput=${input} onFocus=${() => { open.value = true }}
          role="combobox" aria-autocomplete="list" aria-expanded=${open.value} aria-controls="room-list"
          aria-activedescendant=${active.value >= 0 ? optionId(active.value) : undefined}
          placeholder="add a room" title="Press / to come here" enterkeyhint="go" autocomplete="off" autocapitalize="off" spellcheck="false"
          aria-invalid=${Boolean(problem.value)} aria-describedby="room-problem" />
        <p id="room-problem" role="alert" data-testid="room-problem">${problem.value}</p>
        ${open.value && html`<${Options} active=${active.value} onChoose=${choose} />`}
      </form>`
  },
}

export const Header = {
  props: ['problem'],
  setup: props => () => html`
    <header>
      <h1><img src="favicon.svg" alt="" width="24" height="24" />Roomcast</h1>
      <${State} />
      <${RoomInput} problem=${props.problem} />
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
