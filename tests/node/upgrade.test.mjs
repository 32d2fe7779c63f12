// Sessions that upgrade from polling to WebSocket under load lose no message.

import assert from 'node:assert/strict'
import test from 'node:test'
import { startBoth, startTraffic, until } from './support.mjs'
import { newRoom, open } from './viewer.mjs'

const SESSIONS = 60
const AFTERWARDS = 100 // messages published after all have upgraded

const { redis, server } = await startBoth(test)

const upFrom = (first, count) => Array.from({ length: count }, (_, i) => first + i)

for (const version of [2, 4]) {
  test(`${SESSIONS} clients ${version} upgrade together without missing, doubled or reordered messages`, async t => {
    const room = newRoom()
    const traffic = startTraffic(t, redis, room)
    await until(() => traffic.count() > 0, 'messages are on their way')
    const kind = { version, transports: ['polling', 'websocket'] }
    const viewers = Array.from({ length: SESSIONS }, () => open(t, server.page, kind))
    const acks = await Promise.all(viewers.map(viewer => viewer.join(room, { meta: true })))
    await until(() => viewers.every(viewer => viewer.connected), 'all have upgraded')
    const enough = traffic.count() + AFTERWARDS
    await until(() => traffic.count() >= enough, 'more was published')
    const last = `${await traffic.stop() - 1}`
    const isLast = ([payload] = []) => payload === last
    await until(() => viewers.every(({ messages }) => isLast(messages.at(-1))), 'all have the last message')

    const [[firstPayload, { offset: firstOffset }]] = viewers[0].messages
    for (const [i, { messages, disconnects }] of viewers.entries()) {
      const offsets = messages.map(([, { offset }]) => offset)
      assert.deepEqual(offsets, upFrom(acks[i].offset + 1, messages.length))
      // A message has the same offset for every viewer.
      const payloads = offsets.map(offset => `${Number(firstPayload) + offset - firstOffset}`)
      assert.deepEqual(messages.map(([payload]) => payload), payloads)
      assert.deepEqual(disconnects, [])
    }
    assert.equal(await server.metric('roomcast_sessions{transport="websocket"}'), SESSIONS)
    assert.equal(await server.metric('roomcast_sessions{transport="polling"}'), 0)
    viewers.forEach(({ socket }) => socket.close())
    await until(async () => (await server.status()).sockets === 0, 'all are gone')
  })
}
