// deploy/compose.yaml: the final image and Redis, each in its own container.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'node:test'
import { temporaryFolder, until } from '../support.mjs'
import { connect } from '../viewer.mjs'
import { image, podman, start, yaml } from './podman.mjs'

const { services } = await yaml('deploy/compose.yaml')
const USER = '65532'
const PAGE = 'http://127.0.0.1:8080'
const MAX_SIZE = 10e6 // bytes, compressed

const options = (name, service) => [
  '--network', `desk:alias=${name}`,
  ...Object.entries(service.environment ?? {}).flatMap(([key, value]) => ['--env', `${key}=${value}`]),
  ...(service.ports ?? []).flatMap(port => ['--publish', port]),
  ...(service.cap_drop ?? []).flatMap(name => ['--cap-drop', name]),
  ...(service.security_opt ?? []).flatMap(option => ['--security-opt', option]),
  ...(service.read_only ? ['--read-only', '--read-only-tmpfs=false'] : []),
  image(service.image),
  ...(service.command ?? []),
]

test('the server runs unprivileged without writable files and delivers messages', async t => {
  await podman('network', 'create', 'desk')
  t.after(() => podman('network', 'rm', '--force', 'desk'))
  const redis = await start(t, 'redis', options('redis', services.redis))
  const server = await start(t, 'roomcast', options('roomcast', services.roomcast))
  const ready = () => server.exec('roomcast', 'healthcheck', '--ready').catch(() => false)
  await until(ready, 'it is subscribed to Redis, found by DNS')

  assert.deepEqual(await server.kernel('Uid'), [USER, USER, USER, USER])
  assert.deepEqual(await server.kernel('CapEff'), ['0'.repeat(16)])
  assert.deepEqual(await server.kernel('NoNewPrivs'), ['1'])
  assert.equal(await server.inspect('.HostConfig.ReadonlyRootfs'), true)

  assert.match(await (await fetch(PAGE)).text(), /<title>Roomcast/)
  const viewer = await connect(t, PAGE)
  await viewer.join('device01')
  assert.equal(await redis.exec('redis-cli', 'publish', 'device01', 'hello'), '1')
  assert.deepEqual(await viewer.heard(1), [['hello']])

  assert.equal(await server.exec('roomcast', 'healthcheck'), 'live')
  await podman('healthcheck', 'run', 'roomcast')
  const grace = services.roomcast.stop_grace_period.replace('s', '')
  assert.equal(await server.stop(grace), 0, await server.log())
})

test('the image is small', async t => {
  const folder = join(await temporaryFolder(t), 'image')
  await podman('push', '--quiet', '--compress', 'localhost/roomcast:final', `dir:${folder}`)
  const { layers } = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'))
  const size = layers.reduce((sum, layer) => sum + layer.size, 0)
  t.diagnostic(`${(size / 1e6).toFixed(2)} MB compressed`)
  assert.ok(size > 1e6 && size < MAX_SIZE, `${size} bytes`)
})

test('the image contains the licences of all libraries in it', async t => {
  const container = await podman('create', 'localhost/roomcast:final')
  t.after(() => podman('rm', container))
  const folder = await temporaryFolder(t)
  await podman('cp', `${container}:/usr/share/doc/roomcast/.`, folder)
  const file = name => readFile(join(folder, name), 'utf8')
  const printed = await podman('run', '--rm', '--network', 'none', 'localhost/roomcast:final', 'licences')
  assert.equal(printed, `${await file('LICENSE')}\n\n${await file('THIRD-PARTY-LICENCES.txt')}`.trim())
})
