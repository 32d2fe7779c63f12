// Publishing over HTTP, if the server has said that this page's token allows it.

import { computed, shallowRef } from './vendor/vue.runtime.esm-browser.prod.js'
import { count } from './format.js'
import { link } from './link.js'
import { token } from './token.js'

const PATIENCE = 15_000 // ms to wait for the server's answer
const LONGEST = 300 // characters of an answer that are shown

// The page around a frame can cover it, so that viewers click on what they do not see.
const isFramed = globalThis.top !== globalThis.self

export const patterns = shallowRef([]) // of the channels that the token allows
export const isOffered = computed(() => patterns.value.length > 0 && !isFramed && !link.kiosk)

// Takes what the answer to a join says.
export function learnPatterns({ publish }) {
  const listed = Array.isArray(publish) ? publish : []
  // The same patterns again, as at each reconnect, must not draw the form again.
  if (`${listed}` !== `${patterns.value}`) patterns.value = listed
}

// Whether a pattern is this name, or a beginning of it and a star. The server decides about the others.
const covers = (pattern, name) =>
  pattern === name || (/^[^*?[\\]*\*$/.test(pattern) && name.startsWith(pattern.slice(0, -1)))

// The channel that is most likely meant: the first of these names that is allowed, or the only one that is.
export function proposal(names) {
  const exact = patterns.value.filter(pattern => !/[*?[\\]/.test(pattern))
  return names.find(name => patterns.value.some(pattern => covers(pattern, name))) ?? exact[0] ?? ''
}

// Where a message for a channel is sent. `/` stays as it is, since some proxies refuse `%2F`; but browsers
// and proxies remove empty parts and dots. A channel named by dots alone has no address.
export function addressOf(channel, base = document.baseURI) {
  if (/^\.\.?$/.test(channel)) return
  const parts = channel.split('/')
  const isPlain = parts.every(part => !['', '.', '..'].includes(part))
  return new URL(`publish/${isPlain ? parts.map(encodeURIComponent).join('/') : encodeURIComponent(channel)}`, base).href
}

// Publishes, and returns { published } or { problem }, both in words.
export async function publish(channel, payload) {
  const address = addressOf(channel)
  if (!address) return { problem: 'A channel that is named by dots alone cannot be published on over HTTP.' }
  try {
    const answer = await fetch(address, {
      method: 'POST',
      headers: { authorization: `Bearer ${token()}` },
      body: payload,
      signal: AbortSignal.timeout(PATIENCE),
    })
    if (answer.status !== 202) return { problem: explain(answer.status, channel, await words(answer)) }
    const { subscribers } = await answer.json()
    return { published: `Published: Redis counted ${count(subscribers)} subscriber${subscribers === 1 ? '' : 's'}.` }
  } catch ({ name }) {
    return { problem: name === 'TimeoutError'
      ? 'The server has not answered. The message may have been published or not.'
      : 'The server could not be reached. The message may have been published or not.' }
  }
}

// An error's text. A proxy's page is not for people who publish.
async function words(answer) {
  const isText = answer.headers.get('content-type')?.startsWith('text/plain')
  const text = isText ? (await answer.text()).trim() : ''
  return text.slice(0, LONGEST)
}

function explain(status, channel, text) {
  if (status === 401) return `Not published: ${text || 'the server does not accept the token'}.`
  if (status === 403) return `Not published: the token does not allow “${channel}”. It allows ${patterns.value.join(', ')}.`
  if (status === 404) return 'Not published: this server takes no messages over HTTP.'
  return `Not published: ${text || `the server answered ${status}`}.`
}
