// The live channels, also those that are not shown here; a click joins one.

import { listed, more, silenceOf, useChannels, wanted } from '../channels.js'
import { ago, count, rate } from '../format.js'
import { html } from '../html.js'
import { addByHand, rooms } from '../rooms.js'
import { complaint } from '../socket.js'

const LAST = 80 // characters of the latest payload

function latest({ last, size }) {
  if (typeof last === 'string') return last.slice(0, LAST)
  return size === null ? '' : `binary, ${count(size)} bytes`
}

export const Channels = {
  setup() {
    useChannels()
    const join = name => { if (!rooms.has(name)) complaint.value = addByHand(name) ?? '' }
    return () => html`
      <div class="channels" role="group" aria-label="Live channels">
        <ul>${listed.value.map(channel => html`
          <li key=${channel.room}>
            <button type="button" class="channel" data-testid="channel" data-room=${channel.room}
              aria-disabled=${rooms.has(channel.room)} onClick=${() => join(channel.room)}>
              <bdi>${channel.room}</bdi>
              <span class="pace">${rooms.has(channel.room) ? 'shown' : `${rate(channel.rate)} per second`}, ${ago(silenceOf(channel))}</span>
              <bdi class="last">${latest(channel)}</bdi>
            </button>
          </li>`)}
        </ul>
        ${listed.value.length === 0 && html`<p>${wanted.value ? 'No live channel’s name has this in it.' : 'No channel has been published lately.'}</p>`}
        ${more.value && html`<p>There are more: type a part of a name.</p>`}
      </div>`
  },
}
