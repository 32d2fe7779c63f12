// The live channels, also those that are not shown here; a click joins one.

import { isKnown, listed, more, silenceOf, useChannels, wanted } from '../channels.js'
import { ago, count, pace } from '../format.js'
import { html } from '../html.js'
import { addByHand, rooms } from '../rooms.js'
import { complaint } from '../socket.js'

const LAST = 80 // characters of the latest payload

function latest({ last, size }) {
  if (typeof last === 'string') return last.slice(0, LAST)
  return size === null ? '' : `binary, ${count(size)} bytes`
}

// Below that, the average is mostly the time since the last message.
const SLOWEST = 0.05 // messages a second

const describe = channel => [
  rooms.has(channel.room) ? 'shown' : pace(channel.rate, channel.rate > SLOWEST ? 1000 / channel.rate : 0),
  ago(silenceOf(channel)),
].filter(Boolean).join(', ')

const content = channel => html`
  <bdi>${channel.room}</bdi>
  <span class="pace">${describe(channel)}</span>
  <bdi class="last">${latest(channel)}</bdi>`

const notes = () => html`
  ${isKnown.value && listed.value.length === 0 && html`
    <p>${wanted.value ? 'No live channel’s name has this in it.' : 'No channel has been published lately.'}</p>`}
  ${more.value && html`<p>There are more: type a part of a name.</p>`}`

export const Channels = {
  setup() {
    useChannels()
    const join = name => { if (!rooms.has(name)) complaint.value = addByHand(name) ?? '' }
    return () => html`
      <div class="channels" role="group" aria-label="Live channels">
        <ul>${listed.value.map(channel => html`
          <li key=${channel.room}>
            <button type="button" class="channel" data-testid="channel" data-room=${channel.room}
              aria-disabled=${rooms.has(channel.room)} onClick=${() => join(channel.room)}>${content(channel)}</button>
          </li>`)}
        </ul>
        ${notes()}
      </div>`
  },
}

export const optionId = index => `room-option-${index}`

// The same as the list of a combobox.
export const Options = {
  props: ['active'],
  emits: ['choose'],
  setup(props, { emit }) {
    useChannels()
    return () => html`
      <div class="channels">
        <ul id="room-list" role="listbox" aria-label="Live channels" hidden=${listed.value.length === 0}>
          ${listed.value.map((channel, i) => html`
            <li key=${channel.room} id=${optionId(i)} role="option" class="channel" data-testid="channel" data-room=${channel.room}
              aria-selected=${props.active === i} aria-disabled=${rooms.has(channel.room)}
              onClick=${() => emit('choose', channel.room)}>${content(channel)}</li>`)}
        </ul>
        ${notes()}
      </div>`
  },
}
