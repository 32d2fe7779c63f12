// The built-in page in a real browser.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { besidesAbsence, startBrowser, visit } from './browser.mjs'
import { freePort, startBoth, startRoomcast, until } from './support.mjs'

const browser = await startBrowser(test)
const { redis, server } = await startBoth(test)

// What a test looks at, by the page's `data-testid` hooks.
function hooks(page) {
  const hook = name => page.getByTestId(name)
  const has = (locator, what) => until(async () => await locator.count() > 0, what)
  const row = async message => [
    await message.locator('.from').textContent(), await message.getByTestId('payload').textContent(),
  ]
  return {
    hook,
    inState: state => has(page.locator(`[data-testid=state][data-state=${state}]`), `it is ${state}`),
    joined: room => has(page.locator(`[data-room="${room}"][data-joined=true]`), `it is in ${room}`),
    isShown: text => has(hook('payload').getByText(text, { exact: true }), `it shows ${text}`),
    // Newest first, each as [room, payload].
    messages: async () => Promise.all((await hook('message').all()).map(row)),
  }
}

// Whether a canvas contains a pixel of a colour such as `rgb(1, 2, 3)`. Runs in the browser.
function holds(canvas, colour) {
  if (canvas.width === 0) return false
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
  const wanted = colour.match(/\d+/g).map(Number)
  for (let i = 0; i < data.length; i += 4) {
    if (wanted.every((part, k) => data[i + k] === part)) return true
  }
  return false
}

// Opens the page with rooms in its URL, runs the steps of a test, and asserts no errors at the end.
const onPage = (rooms, steps) => async t => {
  const query = new URLSearchParams(rooms.map(room => ['room', room]))
  const { page, problems } = await visit(t, browser, `${server.page}/?${query}`)
  const seen = hooks(page)
  for (const room of rooms) await seen.joined(room)
  await steps({ page, ...seen })
  assert.deepEqual(problems, [])
}

describe('the page', () => {
  test('joins device01 if the URL names no room, and says how to publish', onPage([], async seen => {
    await seen.inState('connected')
    await seen.joined('device01')
    assert.match(await seen.hook('empty').textContent(), /redis-cli publish device01 hello/)
  }))

  test('shows a message with its room and time', onPage(['greetings'], async seen => {
    await redis.publish('greetings', 'hello <b>\u{1F680}</b>')
    await seen.isShown('hello <b>\u{1F680}</b>')
    assert.deepEqual(await seen.messages(), [['greetings', 'hello <b>\u{1F680}</b>']])
    assert.match(await seen.hook('message').locator('time').textContent(), /^\d\d:\d\d:\d\d\.\d{3}$/)
  }))

  test('shows payloads that are not UTF-8 in hexadecimal', onPage(['bytes'], async seen => {
    await redis.publish('bytes', Buffer.from([0xff, 0x00, 0xfe]))
    await seen.isShown('ff 00 fe')
  }))

  test('draws a chart for each number in a JSON object', onPage(['weather'], async seen => {
    const colour = await seen.hook('room').evaluate(card => getComputedStyle(card).borderTopColor)
    await redis.publish('weather', '{"temperature": 21.5, "wind": {"speed": 3}, "place": "here"}')
    for (const [field, value] of [['temperature', '21.5'], ['wind.speed', '3']]) {
      const chart = seen.page.locator(`[data-testid=chart][data-field="${field}"]`)
      await until(async () => await chart.count() === 1, `there is a chart of ${field}`)
      await until(async () => await chart.locator('dd').textContent() === value, `it says ${value}`)
      await until(() => chart.locator('canvas').evaluate(holds, colour), `${field} is drawn`)
    }
    assert.equal(await seen.hook('chart').count(), 2)
  }))

  test('shows all rooms that the URL names', onPage(['north', 'south & east'], async seen => {
    await redis.publish('north', 'from the north')
    await seen.isShown('from the north')
    await redis.publish('south & east', 'from elsewhere')
    await seen.isShown('from elsewhere')
    assert.deepEqual(await seen.messages(), [['south & east', 'from elsewhere'], ['north', 'from the north']])
  }))

  test('joins a typed room, and adds it to the URL', onPage(['first'], async seen => {
    await seen.hook('room-input').fill('typed')
    await seen.hook('room-input').press('Enter')
    await seen.joined('typed')
    assert.equal(new URL(seen.page.url()).search, '?room=first&room=typed')
    await redis.publish('typed', 'heard')
    await seen.isShown('heard')
  }))

  test('leaves a room at a click', onPage(['stays', 'goes'], async seen => {
    await seen.page.locator('[data-room=goes]').getByTestId('leave').click()
    await until(async () => await server.metric('roomcast_members') === 1, 'the server has one member left')
    assert.equal(await seen.hook('room').count(), 1)
    assert.equal(new URL(seen.page.url()).search, '?room=stays')
  }))

  test('shows messages that arrived while paused when it is resumed', onPage(['pausing'], async seen => {
    await redis.publish('pausing', 'before')
    await seen.isShown('before')
    await seen.hook('pause').click()
    await redis.publish('pausing', 'meanwhile')
    await until(async () => /1 waiting/.test(await seen.hook('pause').textContent()), 'one message is waiting')
    assert.deepEqual(await seen.messages(), [['pausing', 'before']])
    await seen.hook('pause').click()
    await seen.isShown('meanwhile')
    assert.deepEqual(await seen.messages(), [['pausing', 'meanwhile'], ['pausing', 'before']])
  }))

  test('clears its list at Clear', onPage(['clearing'], async seen => {
    await redis.publish('clearing', 'before')
    await seen.isShown('before')
    await seen.hook('clear').click()
    await until(async () => await seen.hook('empty').count() === 1, 'the list is empty')
    await redis.publish('clearing', 'after')
    await seen.isShown('after')
    assert.deepEqual(await seen.messages(), [['clearing', 'after']])
  }))

  test('explains an invalid room name', onPage(['x'.repeat(256)], async seen => {
    await seen.hook('room-input').fill('x'.repeat(257))
    await seen.hook('room-input').press('Enter')
    await until(async () => /257/.test(await seen.hook('room-problem').textContent()), 'it is explained')
    assert.equal(await seen.hook('room').count(), 1)
  }))

  test('reconnects to a restarted server and joins its rooms again', async t => {
    const settings = { REDISHOST: redis.address, HTTP_ADDR: `127.0.0.1:${await freePort()}` }
    const first = await startRoomcast(t, settings)
    const { page, problems } = await visit(t, browser, `${first.page}/?room=one&room=two`)
    const { inState, joined, isShown } = hooks(page)
    await joined('one')
    assert.equal(await first.stop(), 0)
    await inState('disconnected')
    await (await startRoomcast(t, settings)).subscribed()
    await inState('connected')
    for (const room of ['one', 'two']) {
      await joined(room)
      await redis.publish(room, `again in ${room}`)
      await isShown(`again in ${room}`)
    }
    assert.deepEqual(besidesAbsence(problems), [])
  })
})
