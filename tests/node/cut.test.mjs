// Viewers whose connections are cut again and again under load get each number once and in order,
// and a gap for what an outage of the subscription loses. `benches/run cut` does the same at scale.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { RoomcastViewer, cutTest } from './cut.mjs'
import { startBoth } from './support.mjs'

const SMALL = { View: RoomcastViewer, viewers: 20, seconds: 8, rate: 50, up: [0.2, 2] }

async function cut(t, more) {
  const { redis, server } = await startBoth(t)
  const outcome = await cutTest(t, { ...SMALL, url: server.page, redis, ...more })
  assert.ok(outcome.comebacks >= outcome.viewers, 'about every viewer was cut')
  return outcome
}

describe('viewers that are cut again and again', { concurrency: 2 }, () => {
  test('get every number once and in order', async t => {
    const outcome = await cut(t, { seed: 1 })
    const { viewers, expected, comebacks } = outcome
    const good = { missing: 0, doubled: 0, late: 0, once: expected, complete: viewers, recovered: comebacks }
    assert.deepEqual(outcome, { ...outcome, ...good })
  })

  test('miss only what an outage loses, get a gap, and no claim of recovery', async t => {
    const outcome = await cut(t, { seed: 2, kill: true })
    const good = { missingElse: 0, doubled: 0, late: 0, told: outcome.viewers, claimed: 0 }
    assert.deepEqual(outcome, { ...outcome, ...good })
  })
})
