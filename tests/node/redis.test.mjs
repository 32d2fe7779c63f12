// Redis goes down, comes back, refuses or hangs: what the server does and reports.

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { describe } from 'node:test'
import { freePort, run, startBoth, startRedis, startRoomcast, temporaryFolder, until } from './support.mjs'
import { connect } from './viewer.mjs'

// Each waits until `/status` reports Redis as up, or as down with an error that matches `says`, and
// returns the status.
const isWell = server => server.subscribed()
const isDown = (server, says = /./) => until(async () => {
  const status = await server.status()
  return !status.redis.ok && says.test(status.redis.error) && status
}, `the status has an error like ${says}`)

async function assertDelivers(t, redis, server, room = 'room') {
  const viewer = await connect(t, server.page)
  await viewer.join(room)
  await redis.publish(room, 'hello')
  assert.deepEqual(await viewer.heard(1), [['hello']])
}

describe('an outage of Redis', { concurrency: 4 }, () => {
  test('is reported, keeps viewers connected, and is over when Redis is back', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = await connect(t, server.page)
    const { epoch } = await viewer.join('room', { meta: true })

    await redis.kill()
    const down = await isDown(server, /REDISHOST/)
    assert.deepEqual([down.code, down.ready, down.redis.state], [503, true, 'down'])
    assert.equal(await server.readiness(), 200)

    const again = await startRedis(t, { port: redis.port })
    const well = await isWell(server)
    assert.deepEqual([well.code, well.redis.error, well.redis.reconnects], [200, null, 1])
    assert.equal(await server.readiness(), 200)

    await again.publish('room', 'after')
    const [[payload, place]] = await viewer.heard(1)
    assert.equal(payload, 'after')
    assert.notEqual(place.epoch, epoch, 'messages may be missing, so a new epoch begins')
    assert.deepEqual(viewer.disconnects, [])
  })

  test('of the subscription alone ends with a new subscription', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = await connect(t, server.page)
    await viewer.join('room')
    assert.equal(await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub'), 1)
    await until(async () => (await server.status()).redis.reconnects === 1, 'roomcast has subscribed again')
    await isWell(server)
    await redis.publish('room', 'after')
    assert.deepEqual(await viewer.heard(1), [['after']])
  })

  test('at the start leaves the page served, but the server not ready until Redis is up', async t => {
    const port = await freePort()
    const server = await startRoomcast(t, { REDISHOST: `127.0.0.1:${port}` })
    const down = await isDown(server, /REDISHOST/)
    assert.deepEqual([down.code, down.ready, down.redis.state], [503, false, 'connecting'])
    assert.equal(await server.readiness(), 503)
    assert.equal((await fetch(server.page)).status, 200)
    const redis = await startRedis(t, { port })
    await until(async () => await server.readiness() === 200, 'it is ready')
    assert.equal((await isWell(server)).redis.reconnects, 0)
    await assertDelivers(t, redis, server)
  })

  test('that leaves a half-open connection is noticed without TCP', async t => {
    const { redis, server } = await startBoth(t)
    redis.signal('SIGSTOP')
    const down = await isDown(server, /REDISHOST/)
    assert.deepEqual([down.code, down.ready], [503, true])
    redis.signal('SIGCONT')
    await isWell(server)
    await assertDelivers(t, redis, server)
  })
})

describe('the connection to Redis', { concurrency: 4 }, () => {
  test('with a wrong password names the setting, and works once the password is right', async t => {
    const redis = await startRedis(t, { password: 'right' })
    const server = await startRoomcast(t, { REDISHOST: redis.address, REDIS_PASSWORD: 'mistyped' })
    const { redis: { error } } = await isDown(server, /REDIS_PASSWORD/)
    assert.doesNotMatch(error, /mistyped/)
    await redis.client.config('SET', 'requirepass', 'mistyped')
    await isWell(server)
    await assertDelivers(t, redis, server)
  })

  test('without a required password names the setting', async t => {
    const redis = await startRedis(t, { password: 'right' })
    const server = await startRoomcast(t, { REDISHOST: redis.address })
    await isDown(server, /REDIS_PASSWORD/)
  })

  test('with a user that may not subscribe to the pattern names REDIS_CHANNELS', async t => {
    const redis = await startRedis(t)
    const may = ['resetchannels', '&allowed:*', '+subscribe', '+psubscribe', '+ping', '+client']
    await redis.client.call('ACL', 'SETUSER', 'watcher', 'on', '>secret', ...may)
    const user = { REDISHOST: redis.address, REDIS_USERNAME: 'watcher', REDIS_PASSWORD: 'secret' }
    await isDown(await startRoomcast(t, user), /REDIS_CHANNELS/)
    const server = await startRoomcast(t, { ...user, REDIS_CHANNELS: 'allowed:*' })
    await isWell(server)
    await assertDelivers(t, redis, server, 'allowed:room')
  })

  test('works with user and password in a URL', async t => {
    const redis = await startRedis(t)
    await redis.client.call('ACL', 'SETUSER', 'viewer', 'on', '>p@ss/w+rd', '&*', '+@all')
    const secret = encodeURIComponent('p@ss/w+rd')
    const server = await startRoomcast(t, { REDISHOST: `redis://viewer:${secret}@${redis.address}` })
    const { redis: { address } } = await isWell(server)
    assert.equal(address, redis.address)
    await assertDelivers(t, redis, server)
  })

  test('works over a Unix socket', async t => {
    const path = join(await temporaryFolder(t), 'redis.sock')
    const redis = await startRedis(t, { args: ['--unixsocket', path] })
    const server = await startRoomcast(t, { REDISHOST: `unix:${path}` })
    await isWell(server)
    await assertDelivers(t, redis, server)
  })

  test('over TLS needs a trusted root, and a client certificate if Redis requires one', async t => {
    const folder = await temporaryFolder(t)
    const file = name => join(folder, name)
    const openssl = async (...args) => {
      const { code, stderr } = await run(t, 'openssl', args)
      assert.equal(code, 0, stderr)
    }
    const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    const ca = ['-CA', file('ca.pem'), '-CAkey', file('ca.key')]
    await openssl('req', '-x509', ...newKey, '-subj', '/CN=A root of our own', '-keyout', file('ca.key'), '-out', file('ca.pem'))
    for (const name of ['server', 'client']) {
      await openssl('req', '-x509', ...newKey, ...ca, '-subj', `/CN=${name}`, '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1',
        '-addext', 'basicConstraints=critical,CA:FALSE', '-keyout', file(`${name}.key`), '-out', file(`${name}.pem`))
    }
    const port = await freePort()
    const redis = await startRedis(t, {
      args: ['--tls-port', port, '--tls-auth-clients', 'yes', '--tls-ca-cert-file', file('ca.pem'),
        '--tls-cert-file', file('server.pem'), '--tls-key-file', file('server.key')],
    })
    const REDISHOST = `rediss://127.0.0.1:${port}`
    const unknown = await startRoomcast(t, { REDISHOST })
    assert.match((await isDown(unknown, /certificate/i)).redis.error, /REDISHOST, REDIS_CA/)
    const trusted = { REDISHOST, REDIS_CA: file('ca.pem') }
    await isDown(await startRoomcast(t, trusted), /REDIS_CERT|certificate/i)
    const missing = { ...trusted, REDIS_CERT: file('client.pem'), REDIS_KEY: file('nowhere.key') }
    await isDown(await startRoomcast(t, missing), /REDIS_KEY: cannot use .*nowhere/)
    for (const root of ['REDIS_CA', 'SSL_CERT_FILE']) {
      const server = await startRoomcast(t, {
        REDISHOST, [root]: file('ca.pem'), REDIS_CERT: file('client.pem'), REDIS_KEY: file('client.key'),
      })
      await isWell(server)
      await assertDelivers(t, redis, server, root)
    }
  })

  test('with a password file reads the file again at the next connect', async t => {
    const redis = await startRedis(t, { password: 'first' })
    const file = join(await temporaryFolder(t), 'password')
    await writeFile(file, 'first\n')
    const server = await startRoomcast(t, { REDISHOST: redis.address, REDIS_PASSWORD_FILE: file })
    await isWell(server)
    await redis.client.config('SET', 'requirepass', 'second')
    await writeFile(file, 'second\n')
    await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(async () => (await server.status()).redis.reconnects === 1, 'it has subscribed again')
    await assertDelivers(t, redis, server)
  })
})

describe('REDIS_CHANNELS', () => {
  test('delivers once what two patterns match, and nothing that none matches', async t => {
    const { redis, server } = await startBoth(t, { REDIS_CHANNELS: 'a*,*1' })
    const viewer = await connect(t, server.page)
    const seen = async () => (await viewer.heard(4)).map(([payload, { room }]) => `${room} ${payload}`)
    for (const room of ['a1', 'a2', 'b1', 'b2']) await viewer.join(room, { meta: true })
    const receivers = []
    for (const room of ['a1', 'a2', 'b2', 'b1', 'a1']) receivers.push(await redis.publish(room, 'once'))
    assert.deepEqual(receivers, [2, 1, 0, 1, 2]) // Redis counts patterns, not subscribers
    // The order between rooms is not fixed, but a double would arrive before the last message.
    assert.deepEqual((await seen()).sort(), ['a1 once', 'a1 once', 'a2 once', 'b1 once'])
    assert.equal(await server.metric('roomcast_messages_total'), 4)
  })
})
