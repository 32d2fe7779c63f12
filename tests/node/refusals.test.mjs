// The errors that a client gets for bad requests. None of them closes the connection.

import assert from 'node:assert/strict'
import test from 'node:test'
import { startBoth, until } from './support.mjs'
import { everyClient, newRoom } from './viewer.mjs'

const MOST_ROOMS = 256
const MISTAKES = [
  ['bad_request', 'channel'],
  ['bad_request', 'channel', 42],
  ['bad_request', 'channel', ['room']],
  ['bad_request', 'channel', 'room', 'meta'],
  ['bad_request', 'channel', 'room', { meta: 'yes' }],
  ['bad_request', 'leave'],
  ['bad_room', 'channel', ''],
  ['bad_room', 'channel', 'line\nbreak'],
  ['bad_room', 'channel', 'ü'.repeat(129)], // 258 bytes
  ['bad_room', 'leave', ''],
  ['unsupported', 'channel', 'room', { colour: 'red' }],
  ['unsupported', 'unheard-of', 'room'],
]

const { redis, server } = await startBoth(test)

everyClient(connect => {
  const assertIsFine = async viewer => {
    const room = newRoom()
    await viewer.join(room)
    await redis.publish(room, 'still here')
    assert.deepEqual(await viewer.heard(1), [['still here']])
    assert.deepEqual(viewer.disconnects, [])
  }

  test('a bad request is explained in the acknowledgement', async t => {
    const viewer = await connect(t, server.page)
    for (const [code, ...request] of MISTAKES) {
      const { ok, error } = await viewer.ask(...request)
      assert.deepEqual({ ok, code: error.code }, { ok: false, code }, `${request}`)
      assert.equal(typeof error.message, 'string')
    }
    assert.deepEqual(viewer.refusals, [])
    await assertIsFine(viewer)
  })

  test('a bad request without acknowledgement is explained by the event error', async t => {
    const viewer = await connect(t, server.page)
    for (const [, ...request] of MISTAKES) viewer.socket.emit(...request)
    await until(() => viewer.refusals.length >= MISTAKES.length, 'all are explained')
    assert.deepEqual(viewer.refusals.map(({ code }) => code), MISTAKES.map(([code]) => code))
    viewer.refusals.forEach(({ message }) => assert.equal(typeof message, 'string'))
    await assertIsFine(viewer)
  })

  test(`a socket may be in ${MOST_ROOMS} rooms, and one more is refused`, async t => {
    const viewer = await connect(t, server.page)
    const rooms = Array.from({ length: MOST_ROOMS }, newRoom)
    await Promise.all(rooms.map(room => viewer.join(room)))
    const { ok, error } = await viewer.ask('channel', newRoom())
    assert.deepEqual({ ok, code: error.code }, { ok: false, code: 'too_many_rooms' })
    await viewer.ask('leave', rooms[0])
    await assertIsFine(viewer)
  })
})
