// Redis goes down and comes back: each socket gets one event `source` per change, in order.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { startBoth, startRedis, until } from './support.mjs'
import { connect, open } from './viewer.mjs'

const KINDS = [['websocket'], ['polling'], ['polling', 'websocket']]

// Collects the events of a viewer about outages and gaps, in order.
function listen({ socket }) {
  const heard = []
  socket.on('source', ({ up, since }) => heard.push([up ? 'up' : 'down', since]))
  socket.on('gap', ({ room, to }) => heard.push([`gap ${room}`, to]))
  return heard
}

const names = heard => heard.map(([name]) => name)

async function watchers(t, server) {
  return Promise.all(KINDS.map(async transports => {
    const viewer = await connect(t, server.page, { version: 4, transports })
    const heard = listen(viewer)
    for (const room of ['one', 'two']) await viewer.join(room, { meta: true })
    return heard
  }))
}

// Asserts that each viewer got the outage and its end once, and then the gaps.
async function assertReported(all) {
  await until(() => all.every(heard => heard.length === 4), 'all have all events')
  for (const heard of all) {
    const [[down, away], [up, back], ...gaps] = heard
    assert.deepEqual([down, up, ...names(gaps).sort()], ['down', 'up', 'gap one', 'gap two'])
    assert.ok(away <= back && gaps.every(([, to]) => to >= away), JSON.stringify(heard))
  }
}

const outages = server => server.log().split('\n').filter(line => line.includes('the outage of Redis is over'))
  .map(line => JSON.parse(line))

describe('an outage of Redis', { concurrency: 3 }, () => {
  test('after a kill is reported to each socket once, and to late ones', async t => {
    const { redis, server } = await startBoth(t)
    const all = await watchers(t, server)
    const plain = await connect(t, server.page)
    const nothing = listen(plain)
    await plain.join('one')
    await redis.kill()
    await until(() => all.every(heard => heard.length === 1), 'all know of the outage')
    const late = await connect(t, server.page)
    const heard = listen(late)
    late.socket.emit('channel', 'one', { meta: true }, () => heard.push(['ack']))
    await until(() => heard.length === 2, 'a late viewer gets the event')
    assert.deepEqual(names(heard), ['ack', 'down'])
    heard.shift()
    await late.join('two', { meta: true })
    const again = await startRedis(t, { port: redis.port })
    await assertReported([...all, heard])
    await server.subscribed()
    await again.publish('one', 'hello')
    await plain.heard(1)
    assert.deepEqual(nothing, [], 'no event without meta')
    const [{ ms, viewers_told }] = outages(server)
    assert.ok(ms >= 2000)
    assert.equal(viewers_told, KINDS.length + 1)
  })

  test('that hangs is reported, and its end when it continues', async t => {
    const { redis, server } = await startBoth(t)
    const all = await watchers(t, server)
    redis.signal('SIGSTOP')
    t.after(() => redis.signal('SIGCONT'))
    await until(() => all.every(heard => heard.length === 1), 'all know of the outage')
    redis.signal('SIGCONT')
    await assertReported(all)
  })

  test('that is short causes gaps only', async t => {
    const { redis, server } = await startBoth(t)
    const all = await watchers(t, server)
    await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(() => all.every(heard => heard.length === 2), 'both gaps have arrived')
    for (const heard of all) assert.deepEqual(names(heard).sort(), ['gap one', 'gap two'])
    await until(() => outages(server).length === 1, 'it is logged')
    assert.equal(outages(server)[0].viewers_told, 0)
  })

  test('is reported again to a client that has reconnected', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = open(t, server.page)
    const heard = listen(viewer)
    viewer.socket.on('connect', () => viewer.socket.emit('channel', 'room', { meta: true }))
    await until(async () => await server.metric('roomcast_members') === 1, 'it has joined')
    await redis.kill()
    await until(() => heard.length === 1, 'it gets the event')
    viewer.socket.io.engine.close()
    await until(() => heard.length === 2, 'it gets the event again')
    assert.deepEqual(heard[0], heard[1])
  })
})
