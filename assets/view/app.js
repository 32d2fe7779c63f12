// The page as a whole: header, rooms, charts, messages.

import { computed, watchEffect } from '../vendor/vue.runtime.esm-browser.prod.js'
import { html } from '../html.js'
import { rooms } from '../rooms.js'
import { charts } from '../series.js'
import { connection } from '../socket.js'
import { Charts } from './charts.js'
import { Feed } from './feed.js'
import { Header } from './header.js'
import { Rooms } from './rooms.js'

export const App = {
  props: ['problem'],
  setup(props) {
    const names = computed(() => [...rooms.keys()].join(', '))
    watchEffect(() => {
      document.title = `${connection.state === 'connected' ? '' : '⚠ '}${names.value || 'no rooms'} · Roomcast`
    })
    return () => html`
      <div class=${['page', { charted: charts.value.length > 0 }]} data-state=${connection.state}>
        <${Header} problem=${props.problem} />
        <main>
          <${Rooms} />
          ${charts.value.length > 0 && html`<${Charts} />`}
          <${Feed} />
        </main>
      </div>`
  },
}
