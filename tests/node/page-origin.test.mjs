// Pages of other origins in a real browser: every request is refused, unless the origin is allowed.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import test, { describe } from 'node:test'
import { startBrowser, visit } from './browser.mjs'
import { startBoth, until } from './support.mjs'

const browser = await startBrowser(test)

// A page of another origin: it has its own port.
async function startStranger(owner) {
  const stranger = createServer((_, response) => {
    response.setHeader('content-type', 'text/html')
    response.end('<!doctype html><link rel="icon" href="data:,"><title>Elsewhere</title>')
  })
  await new Promise(resolve => stranger.listen(0, '127.0.0.1', resolve))
  owner.after(() => { stranger.closeAllConnections(); stranger.close() })
  return `http://127.0.0.1:${stranger.address().port}`
}

// These run in the browser; each resolves to `in` or `refused`.
const WAYS = {
  polling: ({ server }) => window.enter(server, 'polling'),
  'polling with credentials': ({ server }) => window.enter(server, 'polling', { withCredentials: true }),
  websocket: ({ server }) => window.enter(server, 'websocket'),
  EventSource: ({ server }) => new Promise(resolve => {
    const source = new EventSource(`${server}/events/room`)
    source.addEventListener('joined', () => { source.close(); resolve('in') })
    source.addEventListener('error', () => { source.close(); resolve('refused') })
  }),
  'fetch with a preflight': ({ server }) => {
    const headers = { authorization: 'Bearer x' }
    return fetch(`${server}/roomcast.js`, { headers }).then(() => 'in', () => 'refused')
  },
  'the ES module': ({ server }) => import(`${server}/roomcast.js`).then(() => 'in', () => 'refused'),
}

const enter = () => {
  window.enter = (server, transport, options) => new Promise(resolve => {
    const socket = io(server, { transports: [transport], reconnection: false, ...options })
    socket.on('connect', () => { socket.close(); resolve('in') })
    socket.on('connect_error', () => resolve('refused'))
  })
}

async function visitStranger(t, stranger, server) {
  const { page } = await visit(t, browser, stranger)
  await page.addScriptTag({ url: `${server.page}/socket.io/socket.io.js` })
  await page.evaluate(enter)
  return page
}

describe('a page of another origin', async () => {
  const stranger = await startStranger(test)

  for (const [setting, expected] of [[{}, 'refused'], [{ ALLOWED_ORIGINS: stranger }, 'in']]) {
    test(`is ${expected} ${setting.ALLOWED_ORIGINS ? 'where it is allowed' : 'otherwise'}`, async t => {
      const { server } = await startBoth(t, setting)
      const page = await visitStranger(t, stranger, server)
      for (const [way, go] of Object.entries(WAYS)) {
        assert.equal(await page.evaluate(go, { server: server.page }), expected, way)
      }
      const refusals = await server.metric('roomcast_origins_refused_total')
      assert.equal(refusals > 0, expected === 'refused')
    })
  }

  test('that is refused gets the setting to change, and the log names it once', async t => {
    const { server } = await startBoth(t, { ALLOWED_ORIGINS: 'https://*.example.com' })
    for (let i = 0; i < 3; i++) {
      const answer = await fetch(`${server.page}/socket.io/?EIO=4&transport=polling`, { headers: { origin: stranger } })
      assert.equal(answer.status, 403)
      assert.match(answer.headers.get('vary'), /origin/i)
      assert.equal(answer.headers.get('access-control-allow-origin'), null)
      assert.match(await answer.text(), /ALLOWED_ORIGINS/)
    }
    const line = `ALLOWED_ORIGINS=https://*.example.com,${stranger}`
    await until(() => server.log().includes(line), 'the log has the line to paste')
    assert.equal(server.log().split(line).length, 2)
  })
})

test('the page of the server itself connects in every way', async t => {
  const { server } = await startBoth(t)
  const { page } = await visit(t, browser, server.page)
  await page.addScriptTag({ url: `${server.page}/socket.io/socket.io.js` })
  await page.evaluate(enter)
  for (const [way, go] of Object.entries(WAYS)) {
    assert.equal(await page.evaluate(go, { server: server.page }), 'in', way)
  }
})
