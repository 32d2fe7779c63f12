// Redis goes, comes back, refuses, hangs; what the server makes of it, and what it tells.

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { describe } from 'node:test'
import { freePort, run, startBoth, startRedis, startRoomcast, temporaryFolder, until } from './support.mjs'
import { connect } from './viewer.mjs'

// The status at a moment when Redis is well, or is not and an error says something.
const isWell = server => server.subscribed()
const isDown = (server, says = /./) => until(async () => {
  const status = await server.status()
  return !status.redis.ok && says.test(status.redis.error) && status
}, `the status tells of an error like ${says}`)

async function assertDelivers(t, redis, server, room = 'room') {
  const viewer = await connect(t, server.page)
  await viewer.join(room)
  await redis.publish(room, 'hello')
  assert.deepEqual(await viewer.heard(1), [['hello']])
}

describe('an outage of Redis', { concurrency: 4 }, () => {
  test('is told, survived by the viewers, and over when Redis is back', async t => {
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
    assert.notEqual(place.epoch, epoch, 'messages may be missing, so the offsets begin anew')
    assert.deepEqual(viewer.disconnects, [])
  })

  test('of the subscription alone is mended', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = await connect(t, server.page)
    await viewer.join('room')
    assert.equal(await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub'), 1)
    await until(async () => (await server.status()).redis.reconnects === 1, 'it has noticed')
    await isWell(server)
    await redis.publish('room', 'after')
    assert.deepEqual(await viewer.heard(1), [['after']])
  })

  test('at the start leaves the page served, and not ready until Redis is there', async t => {
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

  test('that leaves the connection half open is noticed without the help of TCP', async t => {
    const { redis, server } = await startBoth(t)
    redis.signal('SIGSTOP')
    const down = await isDown(server, /REDISHOST/)
    assert.deepEqual([down.code, down.ready], [503, true])
    redis.signal('SIGCONT')
    await isWell(server)
    await assertDelivers(t, redis, server)
  })
})

describe('the way into Redis', { concurrency: 4 }, () => {
  test('by a wrong password is refused by name of the setting, and open once it is right', async t => {
    const redis = await startRedis(t, { password: 'right' })
    const server = await startRoomcast(t, { REDISHOST: redis.address, REDIS_PASSWORD: 'mistyped' })
    const { redis: { error } } = await isDown(server, /REDIS_PASSWORD/)
    assert.doesNotMatch(error, /mistyped/)
    await redis.client.config('SET', 'requirepass', 'mistyped')
    await isWell(server)
    await assertDelivers(t, redis, server)
  })

  test('without a password that is wanted names the setting', async t => {
    const redis = await startRedis(t, { password: 'right' })
    const server = await startRoomcast(t, { REDISHOST: redis.address })
    await isDown(server, /REDIS_PASSWORD/)
  })

  test('with a user who may not see the pattern names REDIS_CHANNELS', async t => {
    const redis = await startRedis(t)
    const may = ['resetchannels', '&allowed:*', '+subscribe', '+psubscribe', '+ping', '+client']
    await redis.client.call('ACL', 'SETUSER', 'watcher', 'on', '>secret', ...may)
    const user = { REDISHOST: redis.address, REDIS_USERNAME: 'watcher', REDIS_PASSWORD: 'secret' }
    await isDown(await startRoomcast(t, user), /REDIS_CHANNELS/)
    const server = await startRoomcast(t, { ...user, REDIS_CHANNELS: 'allowed:*' })
    await isWell(server)
    await assertDelivers(t, redis, server, 'allowed:room')
  })

  test('leads through a URL with user and password', async t => {
    const redis = await startRedis(t)
    await redis.client.call('ACL', 'SETUSER', 'viewer', 'on', '>p@ss/w+rd', '&*', '+@all')
    const secret = encodeURIComponent('p@ss/w+rd')
    const server = await startRoomcast(t, { REDISHOST: `redis://viewer:${secret}@${redis.address}` })
    const { redis: { address } } = await isWell(server)
    assert.equal(address, redis.address)
    await assertDelivers(t, redis, server)
  })

  test('leads through a Unix socket', async t => {
    const path = join(await temporaryFolder(t), 'redis.sock')
    const redis = await startRedis(t, { args: ['--unixsocket', path] })
    const server = await startRoomcast(t, { REDISHOST: `unix:${path}` })
    await isWell(server)
    await assertDelivers(t, redis, server)
  })

  test('by TLS needs a root that is trusted, and a client certificate where Redis asks for one', async t => {
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

  test('by a password in a file uses what the file holds at the next connect', async t => {
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
  test('delivers once what two patterns match, and nothing that none does', async t => {
    const { redis, server } = await startBoth(t, { REDIS_CHANNELS: 'a*,*1' })
    const viewer = await connect(t, server.page)
    const seen = async () => (await viewer.heard(4)).map(([payload, { room }]) => `${room} ${payload}`)
    for (const room of ['a1', 'a2', 'b1', 'b2']) await viewer.join(room, { meta: true })
    const receivers = []
    for (const room of ['a1', 'a2', 'b2', 'b1', 'a1']) receivers.push(await redis.publish(room, 'once'))
    assert.deepEqual(receivers, [2, 1, 0, 1, 2]) // Redis counts patterns, not subscribers
    // Rooms do not wait for each other, but whatever was doubled would come before the last one.
    assert.deepEqual((await seen()).sort(), ['a1 once', 'a1 once', 'a2 once', 'b1 once'])
    assert.equal(await server.metric('roomcast_messages_total'), 4)
  })
})
