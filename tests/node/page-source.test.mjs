// What the built-in page shows while the server has no Redis.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { startBrowser, visit } from './browser.mjs'
import { startBoth, startRedis, until } from './support.mjs'

const browser = await startBrowser(test)

describe('the page', () => {
  test('shows that Redis is down and since when, also to a later visitor, and that it is back', async t => {
    const { redis, server } = await startBoth(t)
    const open = async () => {
      const { page, problems } = await visit(t, browser, `${server.page}/?room=room`)
      const says = (what, why) => until(async () =>
        what.test(await page.getByTestId('state').textContent()), why)
      await until(async () => await page.locator('[data-room=room][data-joined=true]').count() > 0, 'it has joined')
      return { says, problems }
    }
    const early = await open()
    await early.says(/^\s*Connected\s*websocket\s*$/, 'it is connected')
    await redis.kill()
    const away = /Connected.*Redis away since \d\d:\d\d:\d\d/s
    await early.says(away, 'Redis is away')
    const late = await open()
    await late.says(away, 'Redis was away before')
    await startRedis(t, { port: redis.port })
    for (const { says, problems } of [early, late]) {
      await says(/Connected.*Redis back since \d\d:\d\d:\d\d/s, 'Redis is back')
      assert.deepEqual(problems, [])
    }
  })
})
