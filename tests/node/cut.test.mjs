// Viewers that are cut again and again while messages pour in end with each number once and in
// order; what an outage of the subscription takes with it, they are told. `benches/run cut` does
// the same with more.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { RoomcastViewer, cutTest } from './cut.mjs'
import { startBoth } from './support.mjs'

const SMALL = { View: RoomcastViewer, viewers: 20, seconds: 8, rate: 50, up: [0.2, 2] }

async function cut(t, more) {
  const { redis, server } = await startBoth(t, { HISTORY: '5000' })
  const outcome = await cutTest(t, { ...SMALL, url: server.page, redis, ...more })
  assert.ok(outcome.comebacks >= outcome.viewers, 'every viewer was cut, more or less')
  return outcome
}

describe('viewers that are cut again and again', { concurrency: 2 }, () => {
  test('have every number once and in order', async t => {
    const outcome = await cut(t, { seed: 1 })
    const { viewers, expected, comebacks } = outcome
    const good = { missing: 0, doubled: 0, late: 0, once: expected, complete: viewers, recovered: comebacks }
    assert.deepEqual(outcome, { ...outcome, ...good })
  })

  test('miss an outage of the subscription at most, are told, and never that all is there', async t => {
    const outcome = await cut(t, { seed: 2, kill: true })
    const good = { missingElse: 0, doubled: 0, late: 0, told: outcome.viewers, claimed: 0 }
    assert.deepEqual(outcome, { ...outcome, ...good })
  })
})
