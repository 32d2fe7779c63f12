// The event `hello`, which the demo's server of 2015 sent at each join.

import assert from 'node:assert/strict'
import test from 'node:test'
import { startBoth } from './support.mjs'
import { everyClient, newRoom } from './viewer.mjs'

const silent = await startBoth(test)
const greeting = await startBoth(test, { HELLO: 'true' })

everyClient(connect => {
  // The message comes after the joins, so any `hello` that they caused has arrived before it.
  const meet = async (t, { redis, server }) => {
    const room = newRoom()
    const first = await connect(t, server.page)
    const second = await connect(t, server.page)
    await first.join(room)
    await second.join(room)
    await redis.publish(room, 'both are here')
    await Promise.all([first.heard(1), second.heard(1)])
    return [first.hellos, second.hellos]
  }

  test('with HELLO=true the other members get hello without arguments at a join', async t => {
    assert.deepEqual(await meet(t, greeting), [[[]], []])
  })

  test('without HELLO no member gets hello', async t => {
    assert.deepEqual(await meet(t, silent), [[], []])
  })
})
