// Clients in other languages, and EventSource: what they receive is what is published. The programs
// are in tests/clients.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { fileURLToPath } from 'node:url'
import { EventSource } from 'eventsource'
import { start, startBoth, startCable, until } from './support.mjs'
import { newRoom } from './viewer.mjs'

const PYTHON = process.env.CLIENTS_PYTHON ?? 'python3'
const RUST = process.env.CLIENTS_RUST ?? fileURLToPath(new URL('../../target/clients/debug/roomcast-rust-client', import.meta.url))
const program = name => fileURLToPath(new URL(`../clients/${name}`, import.meta.url))

const TEXTS = ['Grüße 😀', '{"a": [1, 2.50]}', '']
const BYTES = Buffer.from([0xff, 0x00, 0x01])
const MANY = Array.from({ length: 200 }, (_, i) => `${i}`)

const { redis, server } = await startBoth(test)

// Starts a client; `lines` are what it has printed so far.
function watching(t, command, args) {
  const client = start(t, command, args)
  client.lines = () => client.stdout.split('\n').slice(0, -1).map(line => JSON.parse(line))
  client.until = (condition, what) => until(() => {
    if (client.code !== undefined) throw new Error(`it ended: ${client.stderr.slice(-2000)}`)
    return condition(client.lines())
  }, what)
  return client
}

async function publishAll(room) {
  for (const payload of [...TEXTS, BYTES]) await redis.publish(room, payload)
  await Promise.all(MANY.map(number => redis.publish(room, number)))
}

const SOCKETS = {
  'python-socketio by polling': [PYTHON, room => [program('python.py'), server.page, room, 'polling']],
  'python-socketio by WebSocket': [PYTHON, room => [program('python.py'), server.page, room, 'websocket']],
  'python-socketio, upgrading': [PYTHON, room => [program('python.py'), server.page, room, 'polling', 'websocket']],
  'python-socketio, asyncio': [PYTHON, room => [program('python.py'), server.page, room, 'async', 'websocket']],
  'rust_socketio by polling': [RUST, room => [server.page, room, 'polling']],
  'rust_socketio by WebSocket': [RUST, room => [server.page, room, 'websocket']],
  'rust_socketio, upgrading': [RUST, room => [server.page, room, 'any']],
}

// It calls a handler for each event in a thread of its own, so their order is chance.
const HAS_THREADS = /^python-socketio(?!, asyncio)/

describe('sockets', () => {
  for (const [name, [command, args]] of Object.entries(SOCKETS)) {
    test(`${name} gets texts and bytes`, async t => {
      const room = newRoom()
      const client = watching(t, command, args(room))
      const joined = await client.until(lines => lines.find(([event]) => event === 'joined'), 'it has joined')
      assert.equal(joined[1].ok, true)
      await publishAll(room)
      const count = TEXTS.length + 1 + MANY.length
      const messages = lines => lines.filter(([event]) => event === 'message')
      await client.until(lines => messages(lines).length >= count, 'it has all messages')
      const payloads = messages(client.lines()).map(([, payload]) => payload)
      const expected = [...TEXTS, { bytes: BYTES.toString('hex') }, ...MANY]
      if (HAS_THREADS.test(name)) for (const list of [payloads, expected]) list.sort()
      assert.deepEqual(payloads, expected)
      assert.ok(!client.lines().some(([event]) => event === 'disconnect'))
    })
  }
})

describe('event streams', () => {
  for (const name of ['sseclient', 'httpx']) {
    test(`Python's ${name} gets all events`, async t => {
      const room = newRoom()
      const client = watching(t, PYTHON, [program('events.py'), `${server.page}/events/${room}`, name])
      await client.until(lines => lines.some(([event]) => event === 'joined'), 'it has joined')
      await publishAll(room)
      const events = lines => lines.filter(([event]) => event !== 'joined')
      const count = TEXTS.length + 1 + MANY.length
      await client.until(lines => events(lines).length >= count, 'it has all messages')
      const texts = TEXTS.map(text => (text === '' ? ['empty', '{}'] : ['message', text]))
      const expected = [...texts, ['binary', BYTES.toString('base64')], ...MANY.map(number => ['message', number])]
      assert.deepEqual(events(client.lines()), expected)
    })
  }

  test('EventSource comes back with its last position, and gets what it missed once', async t => {
    const room = newRoom()
    const { url, cut } = await startCable(t, server.page)
    const source = new EventSource(`${url}/events/${room}`)
    t.after(() => source.close())
    const joined = []
    const payloads = []
    source.addEventListener('joined', ({ data }) => joined.push(JSON.parse(data)))
    source.addEventListener('message', ({ data }) => payloads.push(data))
    await until(() => joined.length === 1, 'it has joined')
    await redis.publish(room, 'one')
    await until(() => payloads.length === 1, 'the message is there')
    cut()
    await redis.publish(room, 'two')
    await until(() => payloads.length === 2, 'it has come back')
    assert.deepEqual(payloads, ['one', 'two'])
    assert.ok(joined.slice(1).every(({ recovered }) => recovered))
  })
})
