// The contract of the demo: its page and its client of 2015 work in a current browser.

import assert from 'node:assert/strict'
import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'node:test'
import { startBrowser, visit } from './browser.mjs'
import { putDemoClient } from './demo-client.mjs'
import { startBoth, temporaryFolder, until } from './support.mjs'

const BYTES = Buffer.from([0xff, 0x00, 0xfe])
const UNICODE = '\u{1F680} 日本 é \u2028 "quotes"'
const NUMBERS = Array.from({ length: 100 }, (_, i) => `${i}`)

const browser = await startBrowser(test)
const folder = await temporaryFolder(test)
await copyFile(new URL('demo-page.html', import.meta.url), join(folder, 'index.html'))
await putDemoClient(folder)

for (const transports of [['polling'], ['websocket'], ['polling', 'websocket']]) {
  test(`the demo's page works by ${transports.join(', then ')}`, async t => {
    const { redis, server } = await startBoth(t, { ASSETS: folder })
    const query = new URLSearchParams(transports.map(transport => ['transport', transport]))
    const { page, problems } = await visit(t, browser, `${server.page}/?${query}`)
    await until(async () => await server.metric('roomcast_members') === 1, 'it has joined')
    const transport = () => page.evaluate('socket.io.engine.transport.name')
    await until(async () => await transport() === transports.at(-1), 'it has upgraded')

    const sent = ['hello', UNICODE, '', '{"temperature": 21.50}', BYTES, ...NUMBERS]
    await Promise.all(sent.map(payload => redis.publish('device01', payload)))
    const items = page.locator('li')
    await until(async () => await items.count() >= sent.length, 'all messages are there')
    const shown = sent.map(payload => payload === BYTES ? 'bytes 255,0,254' : payload)
    assert.deepEqual(await items.allTextContents(), shown)
    assert.deepEqual(problems, [])
  })
}
