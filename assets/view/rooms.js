// All rooms: as cards, as a table, or in groups, by how many there are.

import { computed, ref } from '../vendor/vue.runtime.esm-browser.prod.js'
import { ago, plural } from '../format.js'
import { html } from '../html.js'
import { rooms } from '../rooms.js'
import { connection } from '../socket.js'
import { Card } from './room-card.js'
import { Table } from './room-table.js'

const CARDS = 8 // rooms
const ROWS = 60 // rooms
const SILENT = 3 // of them are shown one by one

const isSilent = room => room.stale || (room.joined && room.silence === null)

// What comes before the first separator: `plant` of `plant/hall/1`, `device` of `device:01`.
const prefixOf = name => /^[^/:.]+[/:.]/.exec(name)?.[0] ?? ''

function grouped(list) {
  const groups = new Map()
  for (const room of list) {
    const prefix = prefixOf(room.name)
    if (!groups.has(prefix)) groups.set(prefix, [])
    groups.get(prefix).push(room)
  }
  return [...groups].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }))
}

const Group = {
  props: ['prefix', 'list'],
  setup(props) {
    const open = ref(false)
    const summary = computed(() => {
      const silent = props.list.filter(isSilent).length
      const latest = props.list.map(room => room.silence).filter(silence => silence !== null)
      return [
        plural(props.list.length, 'room'),
        silent > 0 && `${silent} silent`,
        latest.length > 0 && ago(Math.min(...latest)),
      ].filter(Boolean).join(', ')
    })
    return () => html`
      <section class="group" data-testid="group" data-prefix=${props.prefix}>
        <h2><button aria-expanded=${open.value} onClick=${() => { open.value = !open.value }}>
          <bdi>${props.prefix ? `${props.prefix}…` : 'Others'}</bdi> <span class="status">${summary.value}</span>
        </button></h2>
        ${open.value && html`<${Table} list=${props.list} />`}
      </section>`
  },
}

// Many silent rooms are one line.
const Silent = {
  props: ['list'],
  setup(props) {
    const open = ref(false)
    return () => html`
      <div class="silent" data-testid="silent">
        <button aria-expanded=${open.value} onClick=${() => { open.value = !open.value }}>
          ${plural(props.list.length, 'room')} silent: no message yet, or for much longer than usual
        </button>
        ${open.value && html`<${Table} list=${props.list} />`}
      </div>`
  },
}

export const Rooms = {
  setup() {
    const list = computed(() => [...rooms.values()])
    const silent = computed(() => list.value.filter(isSilent))
    const isAway = computed(() => connection.source?.up === false)
    const content = () => {
      if (list.value.length <= CARDS) {
        return html`<ul>${list.value.map(room => html`<${Card} key=${room.name} room=${room} />`)}</ul>`
      }
      if (list.value.length > ROWS) {
        return grouped(list.value).map(([prefix, list]) => html`<${Group} key=${prefix} prefix=${prefix} list=${list} />`)
      }
      const isFolded = silent.value.length > SILENT && !isAway.value
      const rest = isFolded ? list.value.filter(room => !isSilent(room)) : list.value
      const inOrder = rest.toSorted((a, b) => isSilent(b) - isSilent(a))
      return html`
        ${isFolded && html`<${Silent} list=${silent.value} />`}
        ${inOrder.length > 0 && html`<${Table} list=${inOrder} />`}`
    }
    return () => html`<section class="rooms" aria-label="Rooms">${content()}</section>`
  },
}
