// The chart's route under a prefix, as Envoy Gateway translates it, in Envoy in front of two
// instances.

import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'node:test'
import { parse } from 'yaml'
import { startBrowser, visit } from '../browser.mjs'
import { freePort, start, startRedis, startRoomcast, temporaryFolder, until } from '../support.mjs'

const FIXTURE = new URL('../../deploy/gateway/', import.meta.url)
const HOST = 'rt.example.com' // the host of the route
const INSTANCES = ['127.0.0.2', '127.0.0.3'] // the addresses in the EndpointSlice, with the same port
const TIMES = 10 // without affinity, half of the polling requests reach the wrong instance

const port = await freePort()
const redis = await startRedis(test)
for (const address of INSTANCES) {
  const server = await startRoomcast(test, { HTTP_ADDR: `${address}:${port}`, REDISHOST: redis.address, HOSTS: HOST })
  await server.subscribed()
}
const outside = await freePort()
await startEnvoy(test)
const site = `http://${HOST}:${outside}`
const browser = await startBrowser(test, [`--host-resolver-rules=MAP ${HOST} 127.0.0.1`])

async function startEnvoy(owner) {
  const config = (await readFile(new URL('envoy.yaml', FIXTURE), 'utf8'))
    .replaceAll('OUTSIDE_PORT', outside).replaceAll('INSTANCE_PORT', port)
  const file = join(await temporaryFolder(owner), 'envoy.yaml')
  await writeFile(file, config)
  const envoy = start(owner, 'envoy', [
    '-c', file, '--disable-hot-restart', '--concurrency', 1, '-l', 'warning', '--component-log-level', 'main:info',
  ])
  await until(() => {
    assert.equal(envoy.code, undefined, envoy.stderr)
    return envoy.stderr.includes('starting main dispatch loop')
  }, 'Envoy is ready')
}

test('the translated route equals the one that the chart renders', async () => {
  const rendered = await readFile(new URL('../../../target/deploy/sticky.yaml', import.meta.url), 'utf8')
  const route = rendered.split(/^---$/m).map(part => parse(part)).find(found => found?.kind === 'HTTPRoute')
  const translated = (await readFile(new URL('resources.yaml', FIXTURE), 'utf8'))
    .split(/^---$/m).map(part => parse(part)).find(found => found?.kind === 'HTTPRoute')
  assert.deepEqual(translated.spec, route.spec)
})

const joined = page => until(
  async () => await page.locator('[data-room="hall"][data-joined=true]').count() > 0, 'it is in hall')
const shows = (page, text) => until(
  async () => (await page.locator('body').innerText()).includes(text), `the page shows ${text}`)

test('the page is served under the prefix, and its sockets stay with one instance', async t => {
  for (let i = 0; i < TIMES; i++) {
    const { page, problems } = await visit(t, browser, `${site}/rt?room=hall`)
    await joined(page)
    assert.equal(page.url(), `${site}/rt/?room=hall`)
    await until(async () => await page.locator('.transport').innerText() === 'websocket', 'it has upgraded')
    await redis.publish('hall', `message ${i}`)
    await shows(page, `message ${i}`)
    assert.deepEqual(problems, [])
  }
})

test('events are streamed under the prefix without buffering', async t => {
  const { page } = await visit(t, browser, `${site}/rt/`)
  await page.evaluate(() => {
    window.heard = []
    const source = new EventSource('events/hall')
    source.addEventListener('joined', () => window.heard.push('joined'))
    source.addEventListener('message', ({ data }) => window.heard.push(data))
  })
  await until(() => page.evaluate(() => window.heard.includes('joined')), 'the stream has joined')
  await redis.publish('hall', 'streamed')
  await until(() => page.evaluate(() => window.heard.includes('streamed')), 'the event has arrived')
})
