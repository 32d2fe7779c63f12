// The page as a whole: header, rooms, charts, messages.

import { computed, watchEffect } from '../vendor/vue.runtime.esm-browser.prod.js'
import { html } from '../html.js'
import { link } from '../link.js'
import { rooms } from '../rooms.js'
import { charts } from '../series.js'
import { connection } from '../socket.js'
import { Charts } from './charts.js'
import { Feed } from './feed.js'
import { Header } from './header.js'
import { Help } from './help.js'
import { Rooms } from './rooms.js'

const shows = part => link.only === null || link.only === part
const isCharted = computed(() => link.only === null && charts.value.length > 0)

export const App = {
  props: ['problem'],
  setup(props) {
    const names = computed(() => [...rooms.keys()].join(', '))
    watchEffect(() => {
      const isCalm = connection.state === 'connected' && ![...rooms.values()].some(room => room.warns)
      document.title = `${isCalm ? '' : '⚠ '}${names.value || 'no rooms'} · Roomcast`
    })
    return () => html`
      <div class=${['page', { charted: isCharted.value }]} data-state=${connection.state} data-kiosk=${link.kiosk} data-only=${link.only}>
        <${Header} problem=${props.problem} />
        <main>
          ${shows('tiles') && html`<${Rooms} />`}
          ${shows('chart') && charts.value.length > 0 && html`<${Charts} />`}
          ${shows('list') && html`<${Feed} />`}
        </main>
        <${Help} />
      </div>`
  },
}
