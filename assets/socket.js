// The page's one Socket.IO connection, and what to tell people about it.

import { io } from './vendor/socket.io.esm.min.js'
import { ref, shallowReactive } from './vendor/vue.runtime.esm-browser.prod.js'
import { forget } from './clock.js'
import { watcher } from './roomcast.js'
import { takeToken, token } from './token.js'

const AFTER_KICK = 2_000 // ms; a pause before the page connects again, after the server has ended the connection
const AFTER_REFUSAL = 30_000 // ms; a screen on a wall has no viewer who reloads the page
const BACK_SHOWN = 30_000 // ms; that Redis is back is news for a while
const NO_TOKEN = 'this page needs a link that ends in #token=…'

takeToken()
// Beside the page, which a proxy may serve under a prefix.
const path = new URL('socket.io/', document.baseURI).pathname
export const socket = io({ path, auth: answer => answer({ token: token() }) })
export const watch = watcher(socket, { onSource: showSource })

export const connection = shallowReactive({
  state: 'connecting', // until the first connection; then connected or disconnected
  since: Date.now(),
  transport: '',
  refusal: '', // why the server let nobody in
  source: null, // what the server told about its Redis: { up, since }
})

// What the server had against a request, until somebody has read it.
export const complaint = ref('')

function change(state, refusal = '') {
  if (connection.state !== state) connection.since = Date.now()
  Object.assign(connection, { state, refusal })
}

function showSource(signal) {
  connection.source = signal
  if (signal?.up) setTimeout(() => { if (connection.source === signal) connection.source = null }, BACK_SHOWN)
}

socket.on('connect', () => {
  forget()
  change('connected')
  const { engine } = socket.io
  connection.transport = engine.transport.name
  engine.once('upgrade', transport => { connection.transport = transport.name })
})

socket.on('disconnect', reason => {
  change('disconnected')
  // The stock client comes back from everything but this.
  if (reason === 'io server disconnect') setTimeout(() => socket.connect(), AFTER_KICK)
})

socket.on('connect_error', error => {
  if (socket.active) return // not reached, and tried again by itself
  change('disconnected', /^a token is needed/.test(error.message) ? NO_TOKEN : error.message)
  setTimeout(() => socket.connect(), AFTER_REFUSAL)
})

// Somebody opens another link in this tab: the browser does not load the page again.
addEventListener('hashchange', () => {
  if (takeToken()) socket.disconnect().connect()
})

socket.on('error', ({ code, message }) => {
  if (code !== 'expiring') complaint.value = `${message} (${code})` // only who made the link can do something
})
