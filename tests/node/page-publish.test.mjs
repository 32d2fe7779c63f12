// The page's form that publishes: only where the token allows it, and with words for each refusal.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import test from 'node:test'
import { addressOf, patterns, proposal } from '../../assets/publish.js'
import { startBrowser, visit } from './browser.mjs'
import { startBoth, until } from './support.mjs'
import { SECRET, token } from './tokens.mjs'

const browser = await startBrowser(test)
const { redis, server } = await startBoth(test, { JWT_SECRET: SECRET, FRAME_ANCESTORS: '*' })

const joined = (page, room) => until(
  async () => await page.locator(`[data-room="${room}"][data-joined=true]`).count() > 0, `it is in ${room}`)

// Opens the page in a room, with a token that allows to publish on some channels.
async function look(t, room, publish, more = '') {
  const address = `${server.page}/?room=${room}${more}#token=${token(['*'], 600, { publish })}`
  const { page, problems } = await visit(t, browser, address)
  await joined(page, room)
  const hook = name => page.getByTestId(name)
  const says = (name, what) => until(async () => what.test(await hook(name).textContent()), `${name} says ${what}`)
  return { page, hook, says, problems }
}

test('publishes a message, also by keyboard, and the room shows it', async t => {
  const { hook, says, problems } = await look(t, 'in/one', ['in/*'])
  await hook('publish').click()
  assert.equal(await hook('publish-channel').inputValue(), 'in/one')
  await hook('publish-payload').fill('{"level": 7}\n <b>')
  await hook('publish-send').click()
  await says('published', /Redis counted 1 subscriber\./)
  await until(async () => await hook('payload').count() === 1, 'the message is shown')
  assert.equal(await hook('payload').textContent(), '{"level": 7}\n <b>')
  await hook('publish-payload').press('Control+Enter')
  await until(async () => await hook('payload').count() === 2, 'it is published again')
  assert.deepEqual(problems, [])
})

test('says in words why a message was not published', async t => {
  const { page, hook, says } = await look(t, 'in/two', ['in/*', 'out'])
  await hook('publish').click()
  await hook('publish-send').click()
  await says('publish-problem', /needs a text/)
  await hook('publish-payload').fill('hello')
  for (const [channel, what] of [
    ['', /needs a name/],
    ['vault', /does not allow “vault”. It allows in\/\*, out\./],
    ['..', /dots alone/],
    ['in/a\u0007b', /no control characters/],
  ]) {
    await hook('publish-channel').fill(channel)
    await hook('publish-send').click()
    await says('publish-problem', what)
  }
  await hook('publish-channel').fill('in/two')
  await hook('publish-payload').evaluate(field => {
    field.value = 'x'.repeat(300_000)
    field.dispatchEvent(new Event('input'))
  })
  await hook('publish-send').click()
  await says('publish-problem', /MAX_PAYLOAD/)
  await page.context().setOffline(true)
  await hook('publish-payload').fill('hello')
  await hook('publish-send').click()
  await says('publish-problem', /could not be reached/)
})

test('has no form where the token does not allow it, and none on a wall', async t => {
  for (const [publish, more] of [[undefined, ''], [[], ''], [['*'], '&kiosk']]) {
    const { hook } = await look(t, 'quiet', publish, more)
    await redis.publish('quiet', 'drawn after the join')
    await until(async () => await hook('payload').count() > 0, 'the message is shown')
    assert.equal(await hook('publish').count(), 0, `${publish} ${more}`)
  }
})

test('has no form in a frame', async t => {
  const address = `${server.page}/?room=framed#token=${token(['*'], 600, { publish: ['*'] })}`
  const host = createServer((_, response) => {
    response.setHeader('content-type', 'text/html')
    response.end(`<!doctype html><title>Host</title><iframe src="${address}" width="1200" height="800"></iframe>`)
  })
  await new Promise(resolve => host.listen(0, '127.0.0.1', resolve))
  t.after(() => { host.closeAllConnections(); host.close() })
  const { page } = await visit(t, browser, `http://127.0.0.1:${host.address().port}`)
  const frame = page.frameLocator('iframe')
  await until(async () => await frame.locator('[data-room=framed][data-joined=true]').count() > 0, 'it has joined in the frame')
  await redis.publish('framed', 'drawn after the join')
  await until(async () => await frame.getByTestId('payload').count() > 0, 'the message is shown')
  assert.equal(await frame.getByTestId('publish').count(), 0)
})

test('takes the form away when a link with another token is opened in the same tab', async t => {
  const { page, hook } = await look(t, 'in/three', ['in/*'])
  await until(async () => await hook('publish').count() === 1, 'the form is offered')
  await page.goto(`${server.page}/?room=in/three#token=${token(['*'], 600)}`)
  await until(async () => await hook('publish').count() === 0, 'it is offered no more')
})

test('the address of a channel means that channel alone', () => {
  const base = 'http://localhost/rt/'
  for (const [channel, path] of [
    ['device01', 'device01'],
    ['hall/door ü?#%', 'hall/door%20%C3%BC%3F%23%25'],
    ['a/../b', 'a%2F..%2Fb'],
    ['a//b', 'a%2F%2Fb'],
    ['/', '%2F'],
    ['...', '...'],
  ]) assert.equal(addressOf(channel, base), `${base}publish/${path}`, channel)
  for (const channel of ['.', '..']) assert.equal(addressOf(channel, base), undefined)
})

test('the form begins with a channel that the token allows', () => {
  for (const [allowed, names, expected] of [
    [['*'], ['a', 'b'], 'a'],
    [['in:*'], ['a', 'in:b'], 'in:b'],
    [['out'], ['a', 'in:b'], 'out'],
    [['i?:[ab]'], ['in:b'], ''],
    [['a\\*'], ['a*', 'ab'], ''],
  ]) {
    patterns.value = allowed
    assert.equal(proposal(names), expected, `${allowed}`)
  }
})
