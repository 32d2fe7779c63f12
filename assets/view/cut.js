// A name that is cut in its middle where there is no room for it: its end often tells more than its
// beginning.

import { html } from '../html.js'

const END = 10 // characters that stay the longest
const SHORT = 12 // characters; not worth a cut

export function cut(text) {
  const characters = [...text]
  if (characters.length <= SHORT) return html`<bdi>${text}</bdi>`
  const at = characters.length - Math.min(END, characters.length >> 1)
  return html`
    <bdi class="cut"><span>${characters.slice(0, at).join('')}</span><span>${characters.slice(at).join('')}</span></bdi>`
}

// A component, for where a name is drawn again and again.
export const Cut = {
  props: ['text'],
  setup: props => () => cut(props.text),
}
