// Keyboard shortcuts: / to the room input, Escape out of it, space to pause, ? for help.

import { ref } from './vendor/vue.runtime.esm-browser.prod.js'
import { togglePause } from './feed.js'

export const help = ref(false) // the shortcuts are shown

const OWN_KEYS = 'input, textarea, button, a, summary' // there, space and / mean something already

export function listen() {
  document.addEventListener('keydown', event => {
    const { key, target } = event
    if (key === 'Escape') help.value = false
    if (key === 'Escape' && target.matches('input, textarea')) target.blur()
    if (event.ctrlKey || event.altKey || event.metaKey || target.matches(OWN_KEYS)) return
    if (key === '/') document.querySelector('#room-input')?.focus()
    else if (key === '?') help.value = !help.value
    else if (key === ' ') togglePause()
    else return
    event.preventDefault()
  })
}
