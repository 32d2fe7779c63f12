// The list of messages, its pause and clear, and what to do while it is empty.

import { ref } from '../vendor/vue.runtime.esm-browser.prod.js'
import { swatch } from '../colours.js'
import { copy } from '../copy.js'
import { csv, download, ndjson } from '../export.js'
import { clear, folded, paused, sought, togglePause, visible, waiting } from '../feed.js'
import { clockMillis, count, plural } from '../format.js'
import { describe } from '../gap.js'
import { html } from '../html.js'
import { isOffered } from '../publish.js'
import { select, selected } from '../rooms.js'
import { cut } from './cut.js'
import { Empty } from './empty.js'
import { Json } from './json.js'
import { Publish } from './publish.js'

const FILES = [['ndjson', 'application/x-ndjson', ndjson], ['csv', 'text/csv', csv]]

// What a text is as JSON, if it is an object or a list.
function parse(text) {
  try {
    return /^\s*[{[]/.test(text) ? JSON.parse(text) : undefined
  } catch {
    return undefined // it was cut, or never was JSON
  }
}

// A component, so that Vue skips the rows that were there before.
const Row = {
  props: ['entry'],
  setup(props) {
    const { at, text, note } = props.entry
    const open = ref(false)
    const box = ref(null)
    const payload = () => {
      const json = open.value ? parse(text) : undefined
      return html`<div class="payload" ref=${box} data-testid="payload">${json === undefined ? text : html`<${Json} value=${json} />`}</div>`
    }
    return () => {
      const { room, rooms, gap } = props.entry // other rooms of the same outage are added later
      return html`
        <li class=${['row', { broken: gap }]} style=${swatch(room.colour)} data-testid=${gap ? 'gap' : 'message'}>
          <span class="from" title=${rooms.map(({ name }) => name).join(', ')}>${rooms.length > 1 ? plural(rooms.length, 'room') : cut(room.name)}</span>
          <time>${clockMillis(at)}</time>
          ${gap ? html`<p class="gap">${describe(gap)}</p>` : payload()}
          ${!gap && html`<div class="tools">
            ${/^\s*[{[]/.test(text) && html`
              <button data-testid="unfold" aria-expanded=${open.value} aria-label="As a tree" onClick=${() => { open.value = !open.value }}>{ }</button>`}
            <button data-testid="copy" onClick=${() => copy(text, box.value)}>Copy</button>
          </div>`}
          ${note && html`<p class="note">${note}</p>`}
        </li>`
    }
  },
}

const publishes = ref(false) // the form is open

export const Feed = {
  setup: () => () => html`
    <section class=${['feed', { folded: folded.value }]} aria-labelledby="feed-title">
      <div class="bar">
        <h2 id="feed-title">
          <button class="fold" data-testid="fold" aria-expanded=${!folded.value} onClick=${() => { folded.value = !folded.value }}>Messages</button>
        </h2>
        ${selected.value !== null && html`
          <button class="filter" data-testid="filter" onClick=${() => select(selected.value)}>
            only <bdi>${selected.value}</bdi> <span aria-hidden="true">×</span>
          </button>`}
        <input type="search" class="seek" data-testid="seek" aria-label="Find in messages" placeholder="find"
          value=${sought.value} onInput=${event => { sought.value = event.target.value }} autocomplete="off" spellcheck="false" />
        <button data-testid="pause" aria-pressed=${paused.value} onClick=${togglePause} title="Space">
          ${paused.value ? `Resume, ${count(waiting.value)} waiting` : 'Pause'}
        </button>
        <button data-testid="clear" onClick=${clear}>Clear</button>
        ${isOffered.value && html`
          <button data-testid="publish" aria-expanded=${publishes.value} onClick=${() => { publishes.value = !publishes.value }}>Publish</button>`}
        <details class="export">
          <summary title="Save what is shown">Save</summary>
          ${FILES.map(([name, type, write]) => html`
            <button data-testid=${name} onClick=${() => download(`messages.${name}`, type, write(visible.value))}>${name.toUpperCase()}</button>`)}
        </details>
      </div>
      ${isOffered.value && publishes.value && html`<${Publish} />`}
      ${!folded.value && html`<div class="log" role="log" aria-live="off" aria-label="Messages, newest first" tabindex="0">
        ${visible.value.length > 0
          ? html`<ol>${visible.value.map(entry => html`<${Row} key=${entry.id} entry=${entry} />`)}</ol>`
          : sought.value
            ? html`<p class="empty">No message that is shown has “${sought.value}” in it.</p>`
            : html`<${Empty} />`}
      </div>`}
    </section>`,
}
