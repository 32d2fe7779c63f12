// How stock clients reconnect by themselves, and join their rooms again.

import assert from 'node:assert/strict'
import test from 'node:test'
import { freePort, startBoth, startCable, startRoomcast, until } from './support.mjs'
import { everyClient, newRoom } from './viewer.mjs'

const { redis, server } = await startBoth(test)

// Joins a room now and after every reconnect, as applications do.
async function keepJoining(viewer, room) {
  await viewer.join(room)
  const comeback = { joined: false }
  viewer.socket.on('connect', () => {
    viewer.socket.emit('channel', room, ({ ok }) => { comeback.joined = ok })
  })
  return comeback
}

everyClient(connect => {
  test('a viewer whose connection breaks reconnects, and gets messages once', async t => {
    const { url, cut } = await startCable(t, server.page)
    const viewer = await connect(t, url)
    const room = newRoom()
    const comeback = await keepJoining(viewer, room)
    await redis.publish(room, 'before')
    await viewer.heard(1)

    // A cut between two polls has no effect, so cut until the viewer notices.
    await until(() => viewer.disconnects.length > 0 || cut(), 'the viewer has noticed')
    await until(() => comeback.joined, 'the viewer has joined again')
    await redis.publish(room, 'after')
    await redis.publish(room, 'later')
    assert.deepEqual(await viewer.heard(3), [['before'], ['after'], ['later']])
    assert.equal(viewer.disconnects.length, 1)
  })

  test('a viewer reconnects to a restarted server, joins again and gets messages', async t => {
    const settings = { REDISHOST: redis.address, HTTP_ADDR: `127.0.0.1:${await freePort()}` }
    const first = await startRoomcast(t, settings)
    await first.subscribed()
    const viewer = await connect(t, first.page)
    const room = newRoom()
    const comeback = await keepJoining(viewer, room)
    await redis.publish(room, 'before')
    await viewer.heard(1)

    assert.equal(await first.stop(), 0)
    await until(() => viewer.disconnects.length === 1, 'the viewer has noticed')
    const second = await startRoomcast(t, settings)
    await second.subscribed()
    await until(() => comeback.joined, 'the viewer has joined again')
    await redis.publish(room, 'after')
    assert.deepEqual(await viewer.heard(2), [['before'], ['after']])
  })
})
