// The history of a room: replay with `last`, recovery with `since`, and gaps.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { startBoth, startCable, until } from './support.mjs'
import { connect, everyClient, newRoom } from './viewer.mjs'

const BYTES = Buffer.from([0xff, 0x00, 0xfe])

const { redis, server } = await startBoth(test)

// Publishes payloads, and waits until the server has received all of them.
async function publishAll(room, payloads) {
  const before = await server.metric('roomcast_messages_total')
  await Promise.all(payloads.map(payload => redis.publish(room, payload)))
  const all = before + payloads.length
  await until(async () => await server.metric('roomcast_messages_total') === all, 'all have arrived')
}

everyClient(connect => {
  test('last replays the latest messages before the first new one', async t => {
    const room = newRoom()
    await publishAll(room, ['too old', 'text', BYTES])
    const viewer = await connect(t, server.page)
    const { replayed } = await viewer.join(room, { last: 2 })
    assert.equal(replayed, 2)
    await redis.publish(room, 'new')
    const [text, [bytes], latest] = await viewer.heard(3)
    assert.deepEqual([text, Buffer.from(bytes), latest], [['text'], BYTES, ['new']])
  })

  test('since replays exactly what was missed while the connection was broken', async t => {
    const { url, cut } = await startCable(t, server.page)
    const viewer = await connect(t, url)
    const room = newRoom()
    const { offset: start } = await viewer.join(room, { meta: true })
    await publishAll(room, ['one', 'two'])
    const [, [, { epoch, offset }]] = await viewer.heard(2)

    let ack
    viewer.socket.on('connect', async () => {
      await publishAll(room, ['missed', 'missed too'])
      ack = await viewer.join(room, { meta: true, since: { epoch, offset } })
    })
    await until(() => viewer.disconnects.length > 0 || cut(), 'the viewer has noticed')
    await until(() => ack, 'the viewer has joined again')
    const { server: build, ...answer } = ack
    assert.equal(typeof build, 'string')
    assert.deepEqual(answer, { ok: true, room, epoch, offset: start + 4, replayed: 2, recovered: true })
    await redis.publish(room, 'new')
    const heard = (await viewer.heard(5)).map(([payload, place]) => [payload, place.offset - start])
    assert.deepEqual(heard, [['one', 1], ['two', 2], ['missed', 3], ['missed too', 4], ['new', 5]])
  })

  test('since with a position of another run is denied recovery', async t => {
    const room = newRoom()
    await publishAll(room, ['one', 'two'])
    const viewer = await connect(t, server.page)
    const since = { epoch: 'of another run', offset: 1 }
    const { recovered, replayed } = await viewer.join(room, { since, last: 1 })
    assert.deepEqual({ recovered, replayed }, { recovered: false, replayed: 1 })
    assert.deepEqual(await viewer.heard(1), [['two']])
  })

  test('channels lists live channels, with members or without', async t => {
    const room = newRoom()
    await publishAll(room, ['one', 'latest'])
    const viewer = await connect(t, server.page)
    const { ok, more, channels: [channel, ...others] } = await viewer.ask('channels', `${room.slice(0, -1)}?`)
    assert.deepEqual({ ok, more, others }, { ok: true, more: false, others: [] })
    assert.deepEqual([channel.room, channel.last, channel.size], [room, 'latest', 6])
  })
})

describe('a lost subscription', () => {
  test('sends a gap to clients that joined with meta only', async t => {
    const { redis, server } = await startBoth(t) // not the shared Redis
    const [careful, plain] = [await connect(t, server.page), await connect(t, server.page)]
    const gaps = []
    careful.socket.on('gap', gap => gaps.push(gap))
    plain.socket.on('gap', () => assert.fail('this viewer joined without meta'))
    await careful.join('room', { meta: true })
    await plain.join('room')
    await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(async () => (await server.status()).redis.reconnects === 1, 'roomcast has subscribed again')
    await server.subscribed()
    await redis.publish('room', 'after')
    await Promise.all([careful.heard(1), plain.heard(1)])
    const [{ room, from, to, reason }] = gaps
    assert.equal(gaps.length, 1)
    assert.deepEqual([room, reason], ['room', 'source_lost'])
    assert.ok(from <= to)
  })
})
