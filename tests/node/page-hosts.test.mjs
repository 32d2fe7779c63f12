// DNS rebinding in a real browser: a page whose host name resolves to this machine reads nothing.

import assert from 'node:assert/strict'
import test from 'node:test'
import { startBrowser } from './browser.mjs'
import { startBoth } from './support.mjs'

const FOREIGN = 'evil.example'
const browser = await startBrowser(test, [`--host-resolver-rules=MAP ${FOREIGN} 127.0.0.1`])

// These run in the browser, on a page of the foreign host: there, the server's answers are
// same-origin.
const WAYS = {
  page: () => fetch('/').then(answer => answer.ok),
  polling: () => fetch('/socket.io/?EIO=4&transport=polling').then(answer => answer.ok),
  WebSocket: () => new Promise(resolve => {
    const socket = new WebSocket(`ws://${location.host}/socket.io/?EIO=4&transport=websocket`)
    socket.onopen = () => { socket.close(); resolve(true) }
    socket.onerror = () => resolve(false)
  }),
  EventSource: () => new Promise(resolve => {
    const source = new EventSource('/events/room?last=1')
    source.addEventListener('joined', () => { source.close(); resolve(true) })
    source.onerror = () => { source.close(); resolve(false) }
  }),
  publishing: () => fetch('/publish/room', { method: 'POST', body: 'x' }).then(answer => answer.status === 401),
  'a header for proxies': () => {
    const headers = { 'X-Forwarded-Host': 'localhost' }
    return fetch('/', { headers }).then(answer => answer.ok)
  },
}

for (const [settings, reads] of [[{}, false], [{ TRUSTED_PROXIES: '127.0.0.1' }, false], [{ HOSTS: FOREIGN }, true]]) {
  test(`a foreign host name ${reads ? 'in HOSTS is served' : 'reads nothing'} with ${JSON.stringify(settings)}`, async t => {
    const { redis, server } = await startBoth(t, { PUBLISH_TOKEN: 'token', ...settings })
    await redis.publish('room', 'secret')
    const page = await browser.newPage()
    t.after(() => page.close())
    const foreign = url => url.replace('127.0.0.1', FOREIGN)
    const answer = await page.goto(foreign(server.page))
    assert.equal(answer.status(), reads ? 200 : 421)
    assert.equal(new URL(page.url()).hostname, FOREIGN)
    if (!reads) assert.match(await answer.text(), /HOSTS/)
    for (const [way, go] of Object.entries(WAYS)) {
      assert.equal(await page.evaluate(go), reads, way)
    }
    const status = await page.goto(foreign(`http://${server.admin}/status`))
    assert.equal(status.status(), reads ? 200 : 421)
    assert.equal((await status.text()).includes('redis'), reads)
  })
}

test('the page is served under the names of this machine', async t => {
  const { server } = await startBoth(t)
  const page = await browser.newPage()
  t.after(() => page.close())
  const { port } = new URL(server.page)
  for (const host of ['127.0.0.1', 'localhost', 'app.localhost']) {
    const answer = await page.goto(`http://${host}:${port}/`)
    assert.equal(answer.status(), 200, host)
  }
})
