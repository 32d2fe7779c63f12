// Keyboard shortcuts: / to the room input, Escape out of it, space to pause.

import { togglePause } from './feed.js'

const OWN_KEYS = 'input, button, a, summary' // there, space and / mean something already

export function listen() {
  document.addEventListener('keydown', event => {
    const { key, target } = event
    if (key === 'Escape' && target.matches('input')) target.blur()
    if (event.ctrlKey || event.altKey || event.metaKey || target.matches(OWN_KEYS)) return
    if (key === '/') document.querySelector('#room-input').focus()
    else if (key === ' ') togglePause()
    else return
    event.preventDefault()
  })
}
