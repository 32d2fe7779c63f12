// What the page shows of many and of few rooms: their values, as cards, in a table, in groups.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { startBrowser, visit } from './browser.mjs'
import { startBoth, until } from './support.mjs'

const browser = await startBrowser(test)
const { redis, server } = await startBoth(test)

const query = rooms => new URLSearchParams(rooms.map(room => ['room', room]))

async function look(t, rooms, more = '') {
  const { page, problems } = await visit(t, browser, `${server.page}/?${query(rooms)}${more}`)
  t.after(() => assert.deepEqual(problems, []))
  const hook = name => page.getByTestId(name)
  const room = name => page.locator(`[data-testid=room][data-room="${name}"]`)
  const count = (locator, expected, what) => until(async () => await locator.count() === expected, what)
  const value = (name, field) => room(name).locator(`[data-testid=reading][data-field="${field}"]`)
  const shows = (locator, text) => until(async () => (await locator.innerText()) === text, `it shows ${text}`)
  return { page, hook, room, count, value, shows }
}

describe('the page', () => {
  test('shows the latest values of a room with their units, and draws numbers alone', async t => {
    const rooms = ['values:object', 'values:number', 'values:state']
    await redis.publish(rooms[0], '{"temperature_c": 21, "on": true, "state": "heating", "fan": {"speed_rpm": "900"}}')
    await redis.publish(rooms[1], '7.25')
    await redis.publish(rooms[2], 'open')
    const { value, shows, hook, count } = await look(t, rooms)
    await shows(value(rooms[0], 'temperature_c'), 'temperature\n21\n°C')
    await shows(value(rooms[0], 'on'), 'on\nyes')
    await shows(value(rooms[0], 'state'), 'state\nheating')
    await shows(value(rooms[0], 'fan.speed_rpm'), 'fan.speed\n900\nrpm')
    await shows(value(rooms[1], 'value'), '7.25')
    await shows(value(rooms[2], 'value'), 'open')
    await count(hook('chart'), 3, 'there are charts of temperature, speed and value')
    await redis.publish(rooms[2], 'closed')
    await shows(value(rooms[2], 'value'), 'closed')
  })

  test('brings back after a reload what the server has kept', async t => {
    const numbers = Array.from({ length: 300 }, (_, i) => i)
    await Promise.all(numbers.map(number => redis.publish('kept', `${number}`)))
    const { page, hook, count } = await look(t, ['kept'])
    await count(hook('message'), 300, 'all are listed')
    await page.reload()
    await count(hook('message'), 300, 'all are listed again')
  })

  test('shows more than eight rooms as a table, silent ones in one line', async t => {
    const rooms = Array.from({ length: 20 }, (_, i) => `table:${i}`)
    for (const room of rooms.slice(0, 12)) await redis.publish(room, '{"level_m": 1.5}')
    const { hook, room, count, value, shows } = await look(t, rooms)
    await until(async () => /^\S? ?8 rooms silent/.test(await hook('silent').innerText().catch(() => '')),
      'those without a message are one line')
    await count(hook('room'), 12, 'the others have a row')
    await shows(value('table:3', 'level_m'), '1.5')
    await hook('silent').getByRole('button').click()
    await count(room('table:15'), 1, 'they are listed at a click')
  })

  test('groups more than sixty rooms by what their names begin with', async t => {
    const rooms = Array.from({ length: 64 }, (_, i) => `${i % 2 ? 'north' : 'south'}/${i}`)
    const { page, hook, count } = await look(t, rooms)
    await count(hook('group'), 2, 'there are two groups')
    await until(async () => /32 rooms/.test(await hook('group').first().innerText()), 'it says how many')
    await page.locator('[data-prefix="north/"] button').first().click()
    await count(hook('room'), 32, 'the rooms of one group are listed')
  })

  test('says how many lines a chart leaves out, and draws that of the selected room', async t => {
    const rooms = Array.from({ length: 30 }, (_, i) => `lines:${i}`)
    for (const room of rooms) await redis.publish(room, '1')
    const { page, hook, room, count } = await look(t, rooms)
    await until(async () => /^6 more rooms/.test(await hook('undrawn').innerText().catch(() => '')), 'six are left out')
    await count(page.locator('[data-testid=chart] dt', { hasText: 'lines:29' }), 0, 'the last one is not drawn')
    await room('lines:29').locator('.name').click()
    await count(page.locator('[data-testid=chart] dt', { hasText: 'lines:29' }), 1, 'it is drawn when it is selected')
  })

  test('names each line at its end, also where ends are close to each other', async t => {
    const values = { 'ends:low': 1, 'ends:high': 9, 'ends:close-to-it-and-with-a-long-name/07': 9 }
    for (const [room, value] of Object.entries(values)) await redis.publish(room, `{"level": ${value}}`)
    const { page, count } = await look(t, Object.keys(values))
    const names = page.locator('[data-testid=chart] dl > div')
    await count(names, 3, 'there are three names')
    const boxes = async () => (await names.evaluateAll(elements => elements.map(element => {
      const { top, bottom } = element.getBoundingClientRect()
      return { name: element.querySelector('dt').title, top, bottom }
    }))).sort((a, b) => a.top - b.top)
    await until(async () => (await boxes()).at(-1).name === 'ends:low', 'the lowest line has the lowest name')
    const [first, second, last] = await boxes()
    assert.ok(second.top >= first.bottom - 0.1, 'names are not over each other')
    assert.ok(last.top > second.bottom + 20, 'names are as far from each other as the lines')
    const long = names.filter({ hasText: 'ends:close' }).locator('.cut span')
    const [cut, end] = await long.evaluateAll(parts => parts.map(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth))
    assert.deepEqual({ cut, end }, { cut: true, end: false }, 'the long name is cut before its end')
  })

  test('lets one choose how far the charts go back, and fold the messages', async t => {
    await redis.publish('ranges', '1')
    const { page, hook, count } = await look(t, ['ranges'])
    await count(hook('range'), 3, 'there are three ranges')
    await hook('range').last().click()
    assert.equal(await hook('range').last().getAttribute('aria-pressed'), 'true')
    await hook('fold').click()
    await count(page.locator('.log'), 0, 'the list is folded')
  })

  test('shows one part alone on a wall, in the theme of the link', async t => {
    await redis.publish('wall', '1')
    const { page, hook, count } = await look(t, ['wall'], '&kiosk&only=tiles&theme=dark')
    await count(hook('room'), 1, 'the room is there')
    await count(page.locator('.charts, .feed'), 0, 'nothing else is')
    assert.equal(await hook('room-input').isVisible(), false)
    assert.equal(await page.locator('html').getAttribute('data-theme'), 'dark')
  })

  test('marks values beyond a limit of the link, and says what in it is unknown', async t => {
    const { page, room, hook } = await look(t, ['hot'], '&warn=t_c>60&colour=pink')
    await until(async () => /colour=pink/.test(await hook('error').innerText().catch(() => '')), 'it is told')
    await redis.publish('hot', '{"t_c": 61}')
    await until(async () => await room('hot').getAttribute('data-warns') === 'true', 'the room is marked')
    assert.match(await page.title(), /^⚠ hot/)
    await redis.publish('hot', '{"t_c": 59}')
    await until(async () => await room('hot').getAttribute('data-warns') === 'false', 'it is calm again')
  })

  test('finds messages, and saves those that are shown', async t => {
    for (const text of ['the needle', 'hay', '=2+3 needle']) await redis.publish('stack', text)
    const { page, hook, count } = await look(t, ['stack'])
    await count(hook('message'), 3, 'all are shown')
    await hook('seek').fill('NEEDLE')
    await count(hook('message'), 2, 'those that have it')
    await page.locator('.export summary').click()
    const [download] = await Promise.all([page.waitForEvent('download'), hook('csv').click()])
    const chunks = await (await download.createReadStream()).toArray()
    assert.match(Buffer.concat(chunks).toString(), /"'=2\+3 needle"[^]*"the needle"/)
  })

  test('unfolds a message that is JSON', async t => {
    await redis.publish('tree', '{"outer": {"inner": [1, "two"]}}')
    const { page, hook, count } = await look(t, ['tree'])
    await count(hook('message'), 1, 'it is there')
    await hook('message').hover()
    await hook('unfold').click()
    await count(page.locator('[data-testid=payload] .key', { hasText: 'inner' }), 1, 'its parts are shown')
    await page.locator('[data-testid=payload] summary').first().click()
    await until(async () => !await page.locator('[data-testid=payload] .key', { hasText: 'inner' }).isVisible(), 'they fold')
  })

  test('unfolds only as many levels of JSON as the page can draw', async t => {
    await redis.publish('deep', '['.repeat(900) + ']'.repeat(900))
    const { page, hook, count } = await look(t, ['deep'])
    await count(hook('message'), 1, 'it is there')
    await hook('message').hover()
    await hook('unfold').click()
    await count(page.locator('[data-testid=payload] .note', { hasText: 'too deep' }), 1, 'the last level that is drawn says so')
  })

  test('finds a live room by a part of its name, by keyboard alone', async t => {
    await redis.publish('keyboard/found', 'here')
    const { page, hook, room, count } = await look(t, ['start'])
    await page.keyboard.press('/')
    await page.keyboard.type('oard/fo')
    await count(page.locator('[role=option][data-room="keyboard/found"]'), 1, 'it is offered')
    await page.keyboard.press('ArrowDown')
    await page.keyboard.press('Enter')
    await count(room('keyboard/found'), 1, 'it is added')
    assert.equal(await hook('room-input').inputValue(), '')
  })
})

test('an outage is one row for all rooms, and devices are not called stale meanwhile', async t => {
  const { redis, server } = await startBoth(t)
  const rooms = ['out:1', 'out:2', 'out:3']
  const { page, problems } = await visit(t, browser, `${server.page}/?${query(rooms)}`)
  for (const room of rooms) {
    await until(async () => await page.locator(`[data-room="${room}"][data-joined=true]`).count() > 0, `it is in ${room}`)
  }
  await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(async () => await page.getByTestId('gap').count() > 0, 'the outage is shown')
  await until(async () => /3 rooms/.test(await page.getByTestId('gap').first().innerText()), 'for three rooms')
  assert.equal(await page.getByTestId('gap').count(), 1)
  assert.deepEqual(problems, [])
})
