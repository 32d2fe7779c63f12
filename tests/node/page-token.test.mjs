// The page of a server that requires tokens.

import assert from 'node:assert/strict'
import test from 'node:test'
import { startBrowser, visit } from './browser.mjs'
import { startBoth, until } from './support.mjs'
import { SECRET, token } from './tokens.mjs'

const browser = await startBrowser(test)
const { redis, server } = await startBoth(test, { JWT_SECRET: SECRET })

const shows = (page, text) => until(
  async () => (await page.locator('body').innerText()).includes(text), `the page shows ${text}`)
const joined = (page, room) => until(
  async () => await page.locator(`[data-room="${room}"][data-joined=true]`).count() > 0, `it is in ${room}`)

test('a link with a token opens the page, and the token leaves the address bar', async t => {
  const { page, problems } = await visit(t, browser, `${server.page}/?room=hall#token=${token(['hall'], 600)}&view=wide`)
  await joined(page, 'hall')
  assert.equal(page.url(), `${server.page}/?room=hall#view=wide`)
  await redis.publish('hall', 'hello')
  await shows(page, 'hello')
  await page.reload()
  await joined(page, 'hall')
  assert.deepEqual(problems, [])
})

test('a room that the token does not allow shows the reason, and the others stay', async t => {
  const { page } = await visit(t, browser, `${server.page}/?room=hall&room=vault#token=${token(['hall'], 600)}`)
  await joined(page, 'hall')
  await shows(page, 'forbidden')
})

test('without a token the page says what it needs, and a link with one works in the same tab', async t => {
  const { page } = await visit(t, browser, `${server.page}/?room=hall`)
  await shows(page, '#token=')
  await page.goto(`${server.page}/?room=hall#token=${token(['hall'], 600)}`)
  await joined(page, 'hall')
  assert.equal(page.url(), `${server.page}/?room=hall`)
})

test('an expired token disconnects the page, which shows the reason', async t => {
  const { page } = await visit(t, browser, `${server.page}/?room=hall#token=${token(['hall'], 8)}`)
  await joined(page, 'hall')
  await shows(page, 'expired')
})
