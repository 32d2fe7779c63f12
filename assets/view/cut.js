// A name that is cut in its middle where there is no room for it: its end often tells more than its
// beginning.

import { html } from '../html.js'

const END = 10 // characters that stay

export const Cut = {
  props: ['text'],
  setup: props => () => {
    const characters = [...props.text]
    // A short name is not worth a cut.
    const at = characters.length > 2 * END ? characters.length - END : characters.length
    return html`
      <bdi class="cut"><span>${characters.slice(0, at).join('')}</span><span>${characters.slice(at).join('')}</span></bdi>`
  },
}
