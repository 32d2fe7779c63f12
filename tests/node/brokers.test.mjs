// The embedded broker with clients of a real Redis.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { BROKER_CLIENTS } from './broker-clients.mjs'
import { run, startRoomcast, until } from './support.mjs'
import { connect, newRoom } from './viewer.mjs'

const server = await startRoomcast(test, { REDISHOST: 'embedded:0' })
await server.subscribed()

const BYTES = Buffer.from([0xff, 0x00, 0x0d, 0x0a])
const NAMING = {
  subscribe: room => room,
  psubscribe: room => `${room.slice(0, -3)}*`,
}

async function enter(t) {
  const viewer = await connect(t, server.page)
  const room = newRoom()
  await viewer.join(room)
  return { viewer, room }
}

describe('the embedded broker', () => {
  for (const [name, open] of Object.entries(BROKER_CLIENTS)) {
    test(`delivers what ${name} publishes to a viewer`, async t => {
      const { publish } = await open(t, server.redis)
      const { viewer, room } = await enter(t)
      for (const payload of ['hello', '日本 \u{1F680}', '']) assert.equal(await publish(room, payload), 1)
      assert.deepEqual(await viewer.heard(3), [['hello'], ['日本 \u{1F680}'], ['']])
    })

    for (const [command, nameFor] of Object.entries(NAMING)) {
      test(`lets ${name} ${command}`, async t => {
        const client = await open(t, server.redis)
        const room = newRoom()
        const heard = []
        await client[command](nameFor(room), (...message) => heard.push(message))
        assert.equal(await client.publish(room, 'hello'), 2) // the client, and roomcast itself
        await until(() => heard.length > 0, `${name} has a message`)
        assert.deepEqual(heard, [[room, 'hello']])
      })
    }
  }

  test('accepts commands that are piped into redis-cli', async t => {
    const { viewer, room } = await enter(t)
    const sent = Array.from({ length: 100 }, (_, i) => `${i}`)
    const input = sent.map(payload => `PUBLISH ${room} ${payload}\n`).join('')
    const { stdout } = await run(t, 'redis-cli', ['-u', `redis://${server.redis}`], { input })
    assert.equal(stdout, '1\n'.repeat(sent.length))
    assert.deepEqual((await viewer.heard(sent.length)).flat(), sent)
  })

  test('passes on payloads that are not UTF-8 unchanged', async t => {
    const { publish } = await BROKER_CLIENTS.ioredis(t, server.redis)
    const { viewer, room } = await enter(t)
    await publish(room, BYTES)
    const [[payload]] = await viewer.heard(1)
    assert.deepEqual(Buffer.from(payload), BYTES)
  })
})
