// Templates without a compiler, which a strict CSP would not run: htm bound to Vue's h.

import htm from './vendor/htm.module.js'
import { h } from './vendor/vue.runtime.esm-browser.prod.js'

// Children go as an array, in which false and null draw nothing. A component gets none at all
// rather than an empty one: Vue would redraw it every time.
export const html = htm.bind((type, props, ...children) =>
  h(type, props, children.length ? children : undefined))
