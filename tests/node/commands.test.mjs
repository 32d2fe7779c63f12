// The subcommands, and how the server starts and stops.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as dial, createServer } from 'node:net'
import test, { describe } from 'node:test'
import {
  command, freePort, startBoth, startCommand, startRedis, startRoomcast, startTraffic, until,
} from './support.mjs'
import { connect, KINDS, newRoom } from './viewer.mjs'

const UNREACHABLE = `127.0.0.1:${await freePort()}`

async function takenPort(t) {
  const listener = createServer().listen(0, '127.0.0.1')
  t.after(() => listener.close())
  await once(listener, 'listening')
  return `127.0.0.1:${listener.address().port}`
}

describe('publish', () => {
  test('prints how many subscribers a message reached', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = await connect(t, server.page)
    await viewer.join('room')
    const { code, stdout } = await command(t, ['publish', 'room', 'hello'], { REDISHOST: redis.address })
    assert.deepEqual([code, stdout], [0, '1 subscriber\n'])
    assert.deepEqual(await viewer.heard(1), [['hello']])
  })

  test('publishes each line of its input as a message', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = await connect(t, server.page)
    await viewer.join('room')
    const lines = 'one\ntwo\r\n\nthe last'
    const { code, stdout } = await command(t, ['publish', 'room', '-'], { REDISHOST: redis.address }, lines)
    assert.deepEqual([code, stdout], [0, '1 subscriber\n'.repeat(4)])
    assert.deepEqual(await viewer.heard(4), [['one'], ['two'], [''], ['the last']])
    const none = await command(t, ['publish', 'another', 'x'], { REDISHOST: redis.address })
    assert.equal(none.stdout, '1 subscriber\n') // roomcast itself
  })

  test('refuses what a server would drop, without contacting Redis', async t => {
    const redis = await startRedis(t)
    const env = { REDISHOST: redis.address, MAX_PAYLOAD: '1KiB' }
    for (const [channel, payload, says] of [
      ['', 'x', /1 to 256 bytes/],
      ['x'.repeat(257), 'x', /1 to 256 bytes/],
      ['a\nb', '-', /control characters/],
      ['roomcast:probe:x', 'x', /the server's own/],
      ['roomcast:anything', 'x', /the server's own/],
      ['room', 'x'.repeat(1025), /larger than 1024 bytes \(MAX_PAYLOAD\)/],
    ]) {
      const { code, stdout, stderr } = await command(t, ['publish', channel, payload], env, 'x\n')
      assert.deepEqual([code, stdout], [1, ''], channel)
      assert.match(stderr, says)
    }
    assert.doesNotMatch(await redis.client.info('commandstats'), /cmdstat_publish:/)
    const { stdout } = await command(t, ['publish', 'room', 'x'.repeat(1024)], env)
    assert.equal(stdout, '0 subscribers\n')
  })

  test('skips lines that are too large, and prints their numbers', async t => {
    const { redis, server } = await startBoth(t)
    const viewer = await connect(t, server.page)
    await viewer.join('room')
    const [fits, long, huge] = [1024, 1025, 300_000].map(size => 'x'.repeat(size))
    const lines = [fits, long, `${fits}\r`, `${long}\r`, huge, 'end', huge].join('\n')
    const env = { REDISHOST: redis.address, MAX_PAYLOAD: '1KiB' }
    const { code, stdout, stderr } = await command(t, ['publish', 'room', '-'], env, lines)
    assert.deepEqual([code, stdout], [1, '1 subscriber\n'.repeat(3)])
    assert.deepEqual(stderr.match(/line \d+/g), ['line 2', 'line 4', 'line 5', 'line 7'])
    assert.deepEqual(await viewer.heard(3), [[fits], [fits], ['end']])
  })

  test('fails without a Redis, and names the setting', async t => {
    const { code, stderr } = await command(t, ['publish', 'room', 'hello'], { REDISHOST: UNREACHABLE })
    assert.equal(code, 1)
    assert.match(stderr, /REDISHOST/)
  })
})

describe('healthcheck', () => {
  const check = async (t, addr, ...flags) => {
    const { code } = await command(t, ['healthcheck', ...flags], { ADMIN_ADDR: addr })
    return code
  }

  test('succeeds while the server runs, and with --ready once it has reached Redis', async t => {
    const port = await freePort()
    const { admin, subscribed } = await startRoomcast(t, { REDISHOST: `127.0.0.1:${port}` })
    assert.equal(await check(t, admin), 0)
    assert.equal(await check(t, admin, '--ready'), 1)
    await startRedis(t, { port })
    await subscribed()
    assert.equal(await check(t, admin, '--ready'), 0)
  })

  test('fails if no server runs', async t => {
    assert.equal(await check(t, UNREACHABLE), 1)
  })
})

describe('startup', () => {
  test('names all bad settings at once and opens no port', async t => {
    const bad = {
      REDISHOST: 'redis://user:a-secret@host/7',
      REDIS_CHANNELS: ',',
      SLOW_AFTER: '1h',
      MAX_CONNECTIONS: '0',
      GRACE: 'soon',
      HELLO: 'perhaps',
      LOG_LEVEL: 'loud',
      ASSETS: '/nowhere',
    }
    // If the server tried to listen, this port would make it fail with another exit code.
    const { code, stdout, stderr } = await command(t, [], { HTTP_ADDR: await takenPort(t), ...bad })
    assert.equal(code, 2)
    const named = stderr.split('\n').map(line => line.match(/^ +([A-Z_]+):/)?.[1]).filter(Boolean)
    assert.deepEqual(named.sort(), Object.keys(bad).sort())
    assert.doesNotMatch(stdout + stderr, /a-secret/)
  })

  for (const setting of ['HTTP_ADDR', 'ADMIN_ADDR']) {
    test(`reports in one line that the port of ${setting} is in use`, async t => {
      const free = { HTTP_ADDR: '127.0.0.1:0', ADMIN_ADDR: '127.0.0.1:0', REDISHOST: UNREACHABLE }
      const { code, stderr } = await command(t, [], { ...free, [setting]: await takenPort(t) })
      assert.equal(code, 1)
      assert.match(stderr, new RegExp(`^[^\n]*${setting}[^\n]*\n$`))
    })
  }
})

describe('demo', () => {
  const ROOMS = ['device01', 'device02', 'device03', 'device04', 'device05']
  const hearsAll = async (t, page) => {
    const viewer = await connect(t, page)
    for (const room of ROOMS) await viewer.join(room, { meta: true })
    const heard = () => new Set(viewer.messages.map(([, { room }]) => room))
    await until(() => heard().size === ROOMS.length, 'all devices have published')
    viewer.messages.forEach(([payload]) => assert.equal(typeof JSON.parse(payload), 'object'))
  }

  test('starts a server with a page, and five devices', async t => {
    const server = await startRoomcast(t, { REDISHOST: 'embedded:0' }, ['demo'])
    assert.equal((await fetch(server.page)).status, 200)
    await hearsAll(t, server.page)
    assert.equal(await server.stop(), 0)
  })

  test('publishes to the Redis of a server that runs already', async t => {
    const { redis, server } = await startBoth(t)
    const { host } = new URL(server.page)
    const demo = startCommand(t, ['demo'], { REDISHOST: redis.address, HTTP_ADDR: host })
    await hearsAll(t, server.page)
    demo.signal('SIGTERM')
    await demo.ended()
    assert.equal(demo.code, 0)
  })
})

describe('shutdown', () => {
  test('by SIGTERM under load is orderly, and lets every viewer reconnect', async t => {
    const { redis, server } = await startBoth(t)
    const viewers = await Promise.all(KINDS.map(kind => connect(t, server.page, kind)))
    const room = newRoom()
    await Promise.all(viewers.map(viewer => viewer.join(room)))
    const traffic = startTraffic(t, redis, room)
    await Promise.all(viewers.map(viewer => viewer.heard(20)))

    assert.equal(await server.stop(), 0)
    await traffic.stop()
    for (const [i, { socket, messages, disconnects }] of viewers.entries()) {
      const who = `client ${KINDS[i].version} by ${KINDS[i].transports}`
      await until(() => disconnects.length > 0, `${who} has noticed`)
      // After `io server disconnect` a stock client does not reconnect.
      assert.match(disconnects[0], /^transport (close|error)$/, who)
      assert.equal(socket.io.reconnection(), true)
      assert.deepEqual(messages.flat(), messages.map((_, n) => `${n}`), who)
    }
  })

  test('is immediate after a second signal, even with a pending request', async t => {
    const { server } = await startBoth(t, { GRACE: '10m' })
    const { hostname, port } = new URL(server.page)
    const hanging = dial(port, hostname).on('error', () => {})
    t.after(() => hanging.destroy())
    // A request whose body never comes.
    hanging.write('POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n')
    await until(async () => await server.metric('roomcast_connections') === 1, 'the request is pending')
    server.signal('SIGTERM')
    await until(async () => await server.readiness() === 503, 'roomcast drains')
    assert.equal(await server.stop(), 1)
  })
})
