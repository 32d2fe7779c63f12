// What the built-in page shows about live channels, silent devices, and gaps.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { besidesAbsence, startBrowser, visit } from './browser.mjs'
import { startBoth, startCable, startRoomcast, startTraffic, until } from './support.mjs'

const browser = await startBrowser(test)

async function look(t, url, room) {
  const { page, problems } = await visit(t, browser, `${url}/?room=${room}`)
  const hook = name => page.getByTestId(name)
  const shown = locator => until(async () => await locator.count() > 0, `${locator} is there`)
  await shown(page.locator(`[data-room="${room.split('&')[0]}"][data-joined=true]`))
  // Newest first: the text of a gap mark, the payload of a message.
  const rows = () => page.locator('[data-testid=gap], [data-testid=payload]').allTextContents()
  return { page, hook, shown, rows, problems }
}

describe('the page', () => {
  test('marks gaps in list and chart', async t => {
    const { redis, server } = await startBoth(t)
    const { page, hook, shown, rows, problems } = await look(t, server.page, 'room')
    await redis.publish('room', '{"level": 1}')
    await shown(page.locator('[data-testid=chart][data-field=level]'))
    await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(async () => (await server.status()).redis.reconnects === 1, 'roomcast has subscribed again')
    await server.subscribed()
    await redis.publish('room', '{"level": 2}')
    await until(async () => (await rows()).length === 3, 'both messages and the mark are there')
    const [after, mark, before] = await rows()
    assert.match(mark, /without the source: messages may be missing/)
    assert.deepEqual([before, after], ['{"level": 1}', '{"level": 2}'])
    await shown(hook('chart-gap'))
    assert.deepEqual(problems, [])
  })

  test('replaces its list under a mark, without a double, after moving to another instance', async t => {
    const { redis, server } = await startBoth(t)
    const other = await startRoomcast(t, { REDISHOST: redis.address })
    await other.subscribed()
    const { url, cut, lead } = await startCable(t, server.page)
    const { hook, shown, rows, problems } = await look(t, url, 'room')
    for (const payload of ['one', 'two']) await redis.publish('room', payload)
    await until(async () => (await rows()).length === 2, 'both are shown')
    lead(other.page)
    cut()
    await shown(hook('gap'))
    await redis.publish('room', 'three')
    await until(async () => (await rows()).includes('three'), 'it is at the other instance')
    const payloads = (await rows()).filter(text => !text.includes('messages may be missing'))
    assert.deepEqual(payloads, ['three', 'two', 'one'])
    assert.equal(await hook('gap').count(), 1)
    assert.deepEqual(besidesAbsence(problems), [])
  })

  test('shows the move of many rooms to another instance as one row', async t => {
    const { redis, server } = await startBoth(t)
    const other = await startRoomcast(t, { REDISHOST: redis.address })
    await other.subscribed()
    const { url, cut, lead } = await startCable(t, server.page)
    const { page, hook, shown, rows } = await look(t, url, 'room&room=second&room=third')
    for (const room of ['second', 'third']) await shown(page.locator(`[data-room=${room}][data-joined=true]`))
    for (const room of ['room', 'second', 'third']) await redis.publish(room, `of ${room}`)
    await until(async () => (await rows()).length === 3, 'all are shown')
    lead(other.page)
    cut()
    await until(async () => /^3 rooms/.test(await hook('gap').first().innerText().catch(() => '')), 'the row is for three rooms')
    assert.equal(await hook('gap').count(), 1)
    assert.deepEqual((await rows()).filter(text => text.startsWith('of')).sort(), ['of room', 'of second', 'of third'])
  })

  test('lists live channels, with members or without, and joins one at a click', async t => {
    const { redis, server } = await startBoth(t)
    await redis.publish('elsewhere', 'unwatched')
    const { page, hook, shown, rows } = await look(t, server.page, 'room')
    await hook('room-input').focus()
    const channel = page.locator('header [data-testid=channel][data-room=elsewhere]')
    await shown(channel.getByText('unwatched', { exact: true }))
    await channel.click()
    await shown(page.locator('[data-testid=room][data-room=elsewhere][data-joined=true]'))
    await until(async () => (await rows()).includes('unwatched'), 'its history is shown')
  })

  test('shows a device as stale if it is silent for much longer than usual', async t => {
    const { redis, server } = await startBoth(t)
    const { page, shown } = await look(t, server.page, 'room')
    const is = stale => shown(page.locator(`[data-testid=room][data-room=room][data-stale=${stale}]`))
    const traffic = startTraffic(t, redis, 'room')
    await until(() => traffic.count() > 20, 'it publishes')
    await is(false)
    await traffic.stop()
    await is(true)
    await redis.publish('room', 'again')
    await is(false)
  })
})
