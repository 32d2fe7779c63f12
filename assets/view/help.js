// The keyboard shortcuts, at `?`.

import { html } from '../html.js'
import { help } from '../keys.js'
import { isOffered } from '../publish.js'

const PUBLISH = ['Ctrl Enter', 'publish what is in the form']
const KEYS = [['/', 'add a room'], ['Space', 'pause the messages, or resume'], ['Esc', 'leave a field, close this'], ['?', 'show this']]

export const Help = {
  setup: () => () => help.value && html`
    <section class="help" role="dialog" aria-label="Keyboard" data-testid="help">
      <dl>${[...KEYS, ...(isOffered.value ? [PUBLISH] : [])].map(([key, what]) => html`<dt key=${key}>${key}</dt><dd>${what}</dd>`)}</dl>
    </section>`,
}
