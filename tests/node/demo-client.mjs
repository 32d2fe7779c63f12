// The browser build of socket.io-client 1.3.7, the demo's client. Its dependencies are Git
// repositories, so it is not installed with the others: its package is fetched once and cached.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const NAME = 'socket.io-client'
const VERSION = '1.3.7'
const SHA256 = '3c5678ca1e1f905b18bb904348c21aca60baeeae5fd6b471aea0f21e3e735d7d'

const CACHE = fileURLToPath(new URL('.cache/', import.meta.url))
const PACKAGE = `${CACHE}${NAME}-${VERSION}.tgz`
const BOUND = { timeout: 60_000 } // ms

const run = promisify(execFile)

// Extracts socket.io.js into a folder.
export async function putDemoClient(folder) {
  if (!existsSync(PACKAGE)) {
    await mkdir(CACHE, { recursive: true })
    await run('npm', ['pack', `${NAME}@${VERSION}`, '--pack-destination', CACHE], BOUND)
  }
  const sum = createHash('sha256').update(await readFile(PACKAGE)).digest('hex')
  assert.equal(sum, SHA256, `${PACKAGE} is not the package that was published`)
  const extract = ['-xzf', PACKAGE, '-C', folder, '--strip-components=1', 'package/socket.io.js']
  await run('tar', extract, BOUND)
}
