// The files of the page, as the server serves them.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import test from 'node:test'
import { startBoth } from './support.mjs'

const ASSETS = new URL('../../assets/', import.meta.url)

const { server } = await startBoth(test)

test('files are answered 304 if the client has them', async () => {
  for (const path of ['/', '/main.js', '/style.css', '/vendor/vue.runtime.esm-browser.prod.js']) {
    const whole = await fetch(server.page + path)
    assert.equal(whole.status, 200, path)
    const again = await fetch(server.page + path, { headers: { 'If-None-Match': whole.headers.get('etag') } })
    assert.equal(again.status, 304, path)
    assert.equal(await again.text(), '')
  }
})

test('the Content-Security-Policy allows nothing unsafe and no other origin', async () => {
  const policy = (await fetch(server.page)).headers.get('content-security-policy')
  assert.match(policy, /default-src 'none'/)
  assert.doesNotMatch(policy, /unsafe-|http|\*/)
})

test('the client library is served at /socket.io/socket.io.js', async () => {
  const answer = await fetch(`${server.page}/socket.io/socket.io.js`)
  assert.equal(answer.status, 200)
  assert.match(answer.headers.get('content-type'), /^(text|application)\/javascript/)
  assert.match(await answer.text(), /Socket\.IO/)
})

// The modules that a module imports, and those that they import, by their paths beside the page.
async function importsOf(path, found = new Set()) {
  const text = await readFile(new URL(path, ASSETS), 'utf8')
  for (const [, to] of text.matchAll(/^import [^'"]*?'(\.[^']+)'/gm)) {
    const imported = new URL(to, new URL(path, ASSETS)).href.slice(ASSETS.href.length)
    if (found.has(imported)) continue
    found.add(imported)
    await importsOf(imported, found)
  }
  return found
}

test('the page loads all its modules at once', async () => {
  const page = await readFile(new URL('index.html', ASSETS), 'utf8')
  const preloaded = [...page.matchAll(/modulepreload" href="([^"]+)"/g)].map(([, path]) => path)
  assert.deepEqual(preloaded, [...await importsOf('main.js')].sort())
})

test('a path without a file is answered 404', async () => {
  assert.equal((await fetch(`${server.page}/nothing-here`)).status, 404)
})

test('the page is reloaded for another build, but not all the time', async t => {
  const storage = new Map()
  globalThis.sessionStorage = {
    getItem: key => storage.get(key) ?? null,
    setItem: (key, value) => storage.set(key, `${value}`),
  }
  t.after(() => { delete globalThis.sessionStorage })
  const { compare } = await import('../../assets/build.js')
  const reload = t.mock.fn()
  for (const build of ['1.0.0+a', '1.0.0+a', '1.0.0+b', '1.0.0+a', '1.0.0+b']) compare(build, reload)
  assert.equal(reload.mock.callCount(), 1)
})
