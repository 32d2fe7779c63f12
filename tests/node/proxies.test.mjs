// Two instances behind the proxies of deploy/proxies: TLS and HTTP/2 in front, and all that clients do.

import assert from 'node:assert/strict'
import { connect as connectHttp2 } from 'node:http2'
import { request } from 'node:https'
import test, { describe } from 'node:test'
import { startBrowser, visit } from './browser.mjs'
import { PROXIES, startProxy } from './proxies.mjs'
import { startRedis, startRoomcast, until } from './support.mjs'
import { connect, newRoom } from './viewer.mjs'

// The certificates are of no authority.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'

const PER_ADDRESS = 8
const WAYS = [['polling'], ['websocket'], ['polling', 'websocket']]

const redis = await startRedis(test)
const settings = {
  REDISHOST: redis.address,
  HOSTS: 'rt.example.com',
  TRUSTED_PROXIES: '127.0.0.1',
  MAX_CONNECTIONS_PER_ADDRESS: `${PER_ADDRESS}`,
}
const servers = [await startRoomcast(test, settings), await startRoomcast(test, settings)]
for (const server of servers) await server.subscribed()
const instances = servers.map(({ page }) => new URL(page).port)
const browser = await startBrowser(test, ['--ignore-certificate-errors'])

// An event stream over HTTP/1.1, or over HTTP/2.
function follow(t, { url, headers = {}, localAddress, http2 = false, room }) {
  const stream = { status: undefined, text: '' }
  const take = incoming => incoming.setEncoding('utf8').on('data', text => { stream.text += text }).on('error', () => {})
  if (http2) {
    const session = connectHttp2(url)
    session.on('error', () => {})
    t.after(() => session.destroy())
    const incoming = session.request({ ':path': `/events/${room}`, ...headers })
    incoming.on('response', head => { stream.status = head[':status'] })
    take(incoming)
    stream.close = () => session.destroy()
  } else {
    const outgoing = request(`${url}/events/${room}`, { headers, localAddress, agent: false }, response => {
      stream.status = response.statusCode
      take(response)
    }).on('error', () => {})
    outgoing.end()
    t.after(() => outgoing.destroy())
    stream.close = () => outgoing.destroy()
  }
  return stream
}

const statusOf = (url, options) => new Promise((resolve, reject) => {
  request(url, options, response => {
    response.resume()
    resolve(response.statusCode)
  }).on('error', reject).end()
})

for (const name of Object.keys(PROXIES)) {
  describe(`behind ${name}`, async () => {
    const proxy = await startProxy(test, name, instances)

    for (const transports of WAYS) {
      test(`clients get messages by ${transports.join(', then ')}`, async t => {
        const options = { rejectUnauthorized: false }
        const viewer = await connect(t, proxy.url, { version: 4, transports }, options)
        const room = newRoom()
        await viewer.join(room)
        for (const number of [1, 2, 3, 4, 5]) {
          await redis.publish(room, `${number}`)
          await viewer.heard(number)
        }
        assert.deepEqual(viewer.messages.flat(), ['1', '2', '3', '4', '5'])
        assert.deepEqual(viewer.disconnects, [])
      })
    }

    for (const http2 of [false, true]) {
      test(`event streams come at once over HTTP/${http2 ? 2 : 1.1}`, async t => {
        const room = newRoom()
        const stream = follow(t, { ...proxy, room, http2, headers: { 'accept-encoding': 'gzip' } })
        await until(() => stream.text.includes('event: joined'), 'the stream is open')
        await redis.publish(room, 'hello')
        await until(() => stream.text.includes('data: hello'), 'the message is there')
      })
    }

    test('the page works in a browser', async t => {
      const { page, problems } = await visit(t, browser, `${proxy.url}/?room=proxied`)
      await page.getByText('Connected').first().waitFor()
      await redis.publish('proxied', 'through the proxy')
      await page.getByText('through the proxy').first().waitFor()
      assert.deepEqual(problems, [])
    })

    test('a page of the public name may connect, and another one may not', async () => {
      const handshake = `${proxy.url}/socket.io/?EIO=4&transport=polling`
      const headers = { host: proxy.host, origin: `https://${proxy.host}` }
      assert.equal(await statusOf(handshake, { headers }), 200)
      assert.equal(await statusOf(handshake, { headers: { ...headers, origin: 'https://evil.example' } }), 403)
      assert.equal(await statusOf(handshake, { headers: { host: 'evil.example' } }).catch(() => 421) >= 400, true)
    })

    test('each client counts by its own address', async t => {
      const open = localAddress => follow(t, { ...proxy, localAddress, room: newRoom() })
      const mine = Array.from({ length: PER_ADDRESS }, () => open('127.0.0.2'))
      await until(() => mine.every(({ status }) => status === 200), 'all are open')
      const further = open('127.0.0.2')
      await until(() => further.status, 'it is answered')
      assert.equal(further.status, 429)
      const other = open('127.0.0.3')
      await until(() => other.status === 200, 'another address has places')
    })
  })
}

describe('under a prefix', async () => {
  const PREFIX = ['location /', 'location /rt/']
  const kept = await startRoomcast(test, { ...settings, PATH_PREFIX: '/rt' })
  await kept.subscribed()
  const { port } = new URL(kept.page)
  const ways = {
    'that the proxy takes off': [instances, [PREFIX, ['proxy_pass http://roomcast;', 'proxy_pass http://roomcast/;']]],
    'that the server knows': [[port, port], [PREFIX]],
  }
  for (const [way, [ports, changes]] of Object.entries(ways)) {
    const proxy = await startProxy(test, 'nginx', ports, changes, '/rt/livez')

    test(`${way}, the page and its modules work`, async t => {
      const { page, problems } = await visit(t, browser, `${proxy.url}/rt/?room=prefixed`)
      await page.getByText('Connected').first().waitFor()
      await redis.publish('prefixed', 'under a prefix')
      await page.getByText('under a prefix').first().waitFor()
      const seen = await page.evaluate(async () => {
        const { connect } = await import('/rt/roomcast.js')
        const { socket, watch } = await connect()
        const payload = await new Promise(resolve => watch('prefixed', resolve, { last: 1 }))
        socket.close()
        return payload
      })
      assert.equal(seen, 'under a prefix')
      assert.deepEqual(problems, [])
    })
  }

  test('the prefix without a slash leads to the page', async () => {
    const response = await fetch(new URL('/rt?token=x', kept.page), { redirect: 'manual' })
    assert.deepEqual([response.status, response.headers.get('location')], [308, '/rt/?token=x'])
  })
})
