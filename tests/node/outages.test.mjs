// Redis, roomcast, or the connection to it goes down and comes back under load: every viewer learns
// of losses, gets nothing twice, and nothing is left behind.

import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import test, { describe } from 'node:test'
import { watcher } from '../../assets/roomcast.js'
import { freePort, startBoth, startCable, startRedis, startRoomcast, startTraffic, until } from './support.mjs'
import { connect, open } from './viewer.mjs'

const RESTARTS = process.env.RESTARTS ?? 10
const VIEWERS = 10

// A page that shows a room with assets/roomcast.js: numbers, and `null` for each gap mark.
class Page {
  shown = []

  constructor(owner, url, transports = ['websocket']) {
    this.viewer = open(owner, url, { version: 4, transports })
    watcher(this.viewer.socket)('room', payload => this.shown.push(Number(payload)), {
      last: 1000,
      onGap: ({ replace }) => {
        if (replace) this.shown = []
        this.shown.push(null)
      },
    })
  }

  has(number) {
    return until(() => this.shown.includes(number), `${number} is shown`)
  }

  get marked() {
    return this.shown.includes(null)
  }

  // Asserts that each number is shown once and in order, with a mark wherever one is missing.
  assertGapsMarked() {
    let [before, marked] = [-1, true]
    for (const number of this.shown) {
      if (number !== null) assert.ok(marked ? number > before : number === before + 1, `${before}, then ${number}`)
      marked = number === null
      before = number ?? before
    }
  }
}

const openPages = (t, url) => Array.from({ length: VIEWERS }, (_, i) =>
  new Page(t, url, i % 2 === 0 ? ['websocket'] : ['polling']))

const openFiles = async pid => (await readdir(`/proc/${pid}/fd`)).length

describe('under load', { concurrency: 3 }, () => {
  test('Redis is restarted again and again: each time viewers get a gap, and nothing is left behind', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = await connect(t, server.page)
    const gaps = []
    viewer.socket.on('gap', gap => gaps.push(gap))
    await viewer.join('room', { meta: true })
    await redis.publish('room', 'first')
    await viewer.heard(1)
    const files = await openFiles(server.pid)
    let running = redis
    for (let restart = 1; restart <= RESTARTS; restart++) {
      await running.kill()
      await until(async () => !(await server.status()).redis.ok, 'the outage is noticed')
      running = await startRedis(t, { port: redis.port })
      assert.equal((await server.subscribed()).redis.reconnects, restart)
      await running.publish('room', `${restart}`)
      await viewer.heard(restart + 1)
      assert.equal(gaps.length, restart)
    }
    assert.ok(gaps.every(({ reason, from, to }, i) =>
      reason === 'source_lost' && from <= to && from >= (gaps[i - 1]?.to ?? 0)), JSON.stringify(gaps))
    const epochs = new Set(viewer.messages.map(([, { epoch }]) => epoch))
    assert.equal(epochs.size, viewer.messages.length, 'each outage begins a new epoch')
    assert.deepEqual(viewer.disconnects, [])
    await until(async () => await openFiles(server.pid) <= files, 'no file is left open')
    const gauges = ['roomcast_members', 'roomcast_rooms', 'roomcast_queue_messages']
    assert.deepEqual(await Promise.all(gauges.map(server.metric)), [1, 1, 0])
  })

  test('roomcast is killed and restarted: every viewer shows a mark, and nothing twice', async t => {
    const redis = await startRedis(t)
    const settings = { REDISHOST: redis.address, HTTP_ADDR: `127.0.0.1:${await freePort()}`, HISTORY: '1000' }
    const first = await startRoomcast(t, settings)
    await first.subscribed()
    const pages = openPages(t, first.page)
    const traffic = startTraffic(t, redis, 'room')
    await Promise.all(pages.map(page => page.has(100)))
    await first.kill()
    const second = await startRoomcast(t, settings)
    await second.subscribed()
    await until(async () => await second.metric('roomcast_members') === VIEWERS, 'all have come back')
    const last = await traffic.stop() - 1
    for (const page of pages) {
      await page.has(last)
      assert.ok(page.marked)
      page.assertGapsMarked()
    }
  })

  test('roomcast is stopped: messages are delivered until each viewer is closed, one after the other', async t => {
    const { redis, server } = await startBoth(t, { HISTORY: '1000' })
    const pages = openPages(t, server.page)
    for (const { viewer } of pages) viewer.socket.io.reconnection(false)
    await until(async () => await server.metric('roomcast_members') === VIEWERS, 'all have joined')
    const traffic = startTraffic(t, redis, 'room')
    await Promise.all(pages.map(page => page.has(100)))
    assert.equal(await server.stop(), 0)
    await until(() => pages.every(({ viewer }) => viewer.disconnects.length === 1), 'all have noticed')
    await traffic.stop()
    for (const { shown } of pages) assert.deepEqual(shown, Array.from(shown, (_, i) => i))
    const had = pages.filter(({ viewer }) => viewer.transport === 'websocket').map(({ shown }) => shown.length)
    assert.ok(Math.max(...had) > Math.min(...had), `messages were delivered during the drain: ${had}`)
  })

  test('a viewer moves to another instance: it shows a mark, and nothing twice', async t => {
    const { redis, server } = await startBoth(t, { HISTORY: '1000' })
    const other = await startRoomcast(t, { REDISHOST: redis.address, HISTORY: '1000' })
    await other.subscribed()
    const { url, cut, lead } = await startCable(t, server.page)
    const page = new Page(t, url)
    const traffic = startTraffic(t, redis, 'room')
    await page.has(50)
    lead(other.page)
    cut()
    await until(async () => await other.metric('roomcast_members') === 1, 'it has moved')
    const last = await traffic.stop() - 1
    await page.has(last)
    assert.ok(page.marked)
    page.assertGapsMarked()
    assert.deepEqual(page.shown.filter(number => number !== null), Array.from({ length: last + 1 }, (_, i) => i),
      'the other instance had all messages')
  })
})
