// What every client receives when it joins rooms and messages are published.

import assert from 'node:assert/strict'
import test from 'node:test'
import { startBoth } from './support.mjs'
import { everyClient, newRoom } from './viewer.mjs'

const { redis, server } = await startBoth(test)

const BYTES = Buffer.from([0xff, 0x00, 0xfe, 0x80, 0xc3, 0x28])
const TEXTS = {
  'plain text': 'hello',
  'Unicode': '\u{1F680} \u{10FFFF} 日本 é e\u0301 \u2028\u2029 "quotes" \\back\\slashes\\ \r\n\t',
  'text with a NUL': 'before\0after',
  'the empty payload': '',
  'a payload of 64 kB': 'x'.repeat(65_536),
  'JSON': '{"temperature": 21.50, "list": [1, 2], "text": "\\u0000"}',
  'text that looks like a packet': '42["message","mine"]',
}

everyClient(connect => {
  const enter = async (t, ...options) => {
    const viewer = await connect(t, server.page)
    const room = newRoom()
    return { viewer, room, ack: await viewer.join(room, ...options) }
  }

  test('a join is acknowledged with the room and its position', async t => {
    const { room, ack } = await enter(t)
    const { epoch, offset, server: build } = ack
    assert.deepEqual(ack, { ok: true, room, epoch, offset, replayed: 0, server: build })
    assert.match(build, /^\d+\.\d+\.\d+\+[0-9a-f]{8}$/)
    assert.equal(typeof epoch, 'string')
    assert.ok(Number.isSafeInteger(offset))
  })

  test('a join needs no acknowledgement', async t => {
    const viewer = await connect(t, server.page)
    const room = newRoom()
    viewer.socket.emit('channel', room)
    await viewer.join(newRoom()) // requests are answered in order, so the first one is done
    await redis.publish(room, 'hello')
    assert.deepEqual(await viewer.heard(1), [['hello']])
  })

  test('what redis-cli publishes arrives', async t => {
    const { viewer, room } = await enter(t)
    const { stdout } = await redis.cli('publish', room, 'hello')
    assert.equal(stdout, '1\n')
    assert.deepEqual(await viewer.heard(1), [['hello']])
  })

  for (const [what, text] of Object.entries(TEXTS)) {
    test(`${what} arrives as one unchanged string`, async t => {
      const { viewer, room } = await enter(t)
      await redis.publish(room, text)
      assert.deepEqual(await viewer.heard(1), [[text]])
    })
  }

  test('payloads that are not UTF-8 arrive as the same bytes', async t => {
    const { viewer, room } = await enter(t)
    await redis.publish(room, BYTES)
    const [[payload, ...more]] = await viewer.heard(1)
    assert.ok(payload instanceof Uint8Array)
    assert.deepEqual(Buffer.from(payload), BYTES)
    assert.deepEqual(more, [])
  })

  test('a join with meta: true gets each message with its position', async t => {
    const { viewer, room, ack: { epoch, offset: start } } = await enter(t, { meta: true })
    for (const payload of ['one', 'two', BYTES]) await redis.publish(room, payload)
    const places = (await viewer.heard(3)).map(([, { at, ...place }]) => {
      assert.ok(Number.isSafeInteger(at))
      return place
    })
    const [first, ...others] = places
    assert.ok(first.prev <= start, 'nothing is missing between the join and the first message')
    assert.deepEqual([first.room, first.epoch, first.offset], [room, epoch, start + 1])
    assert.deepEqual(others, [2, 3].map(nth => ({ room, epoch, offset: start + nth, prev: start + nth - 1 })))
    const [[one], [two], [bytes]] = viewer.messages
    assert.deepEqual([one, two, Buffer.from(bytes)], ['one', 'two', BYTES])
  })

  test('a later join gets the current offset', async t => {
    const { viewer, room, ack: { epoch, offset: start } } = await enter(t, { meta: true })
    await redis.publish(room, 'earlier')
    await viewer.heard(1)
    const late = await connect(t, server.page)
    const ack = await late.join(room, { meta: true })
    assert.deepEqual([ack.epoch, ack.offset], [epoch, start + 1])
    await redis.publish(newRoom(), 'counts too')
    await redis.publish(room, 'later')
    const [[payload, { offset, prev }]] = await late.heard(1)
    assert.deepEqual({ payload, offset, prev }, { payload: 'later', offset: start + 3, prev: start + 1 })
  })

  test('a client in two rooms gets the messages of both', async t => {
    const { viewer, room } = await enter(t, { meta: true })
    const other = newRoom()
    await viewer.join(other, { meta: true })
    await redis.publish(room, 'here')
    await viewer.heard(1)
    await redis.publish(other, 'there')
    const seen = (await viewer.heard(2)).map(([payload, place]) => [payload, place.room])
    assert.deepEqual(seen, [['here', room], ['there', other]])
  })

  test('a client gets no more messages of a room that it left', async t => {
    const { viewer, room } = await enter(t)
    const stays = newRoom()
    await viewer.join(stays)
    assert.deepEqual(await viewer.ask('leave', room), { ok: true, room })
    await redis.publish(room, 'missed')
    await redis.publish(stays, 'heard')
    assert.deepEqual(await viewer.heard(1), [['heard']])
  })

  test('leaving needs no acknowledgement', async t => {
    const { viewer, room } = await enter(t)
    const stays = newRoom()
    viewer.socket.emit('leave', room)
    await viewer.join(stays)
    await redis.publish(room, 'missed')
    await redis.publish(stays, 'heard')
    assert.deepEqual(await viewer.heard(1), [['heard']])
  })

  test('1,000 messages arrive in order', async t => {
    const { viewer, room } = await enter(t)
    const sent = Array.from({ length: 1000 }, (_, i) => `${i}`)
    await Promise.all(sent.map(payload => redis.publish(room, payload)))
    assert.deepEqual((await viewer.heard(1000)).flat(), sent)
  })
})
