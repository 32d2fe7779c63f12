// Redis changes its role, its master or its address while connections stay open. Every lost message
// lies within a reported gap, and `/status` reports the fault meanwhile.

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { connect as connectTcp, createServer } from 'node:net'
import { join } from 'node:path'
import test, { describe } from 'node:test'
import { freePort, start as startProgram, startRedis, startRoomcast, temporaryFolder, until } from './support.mjs'
import { connect } from './viewer.mjs'

const PACE = 20 // ms

// A TCP proxy that can switch its target, refuse connections, or delay data. Existing connections
// stay open.
async function startProxy(t, port) {
  const proxy = { port: undefined, to: port, refuses: false, latency: 0 }
  const ends = new Set()
  const server = createServer(near => {
    if (proxy.refuses) return near.resetAndDestroy()
    const far = connectTcp(proxy.to, '127.0.0.1')
    for (const [end, other] of [[near, far], [far, near]]) {
      ends.add(end)
      end.setNoDelay(true)
      const pass = data => other.destroyed || other.write(data)
      end.on('error', () => {}).on('close', () => (ends.delete(end), other.destroy()))
      end.on('data', data => proxy.latency ? setTimeout(pass, proxy.latency, data) : pass(data))
    }
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  proxy.port = server.address().port
  proxy.cut = () => ends.forEach(end => end.resetAndDestroy())
  t.after(() => (server.close(), proxy.cut()))
  return proxy
}

// Publishes numbers to the Redis `to`, and records when each was sent.
function startNumbers(t, to) {
  const numbers = { to, sent: [] }
  const timer = setInterval(() => {
    numbers.sent.push(Date.now())
    numbers.to.publish('room', `${numbers.sent.length - 1}`).catch(() => {})
  }, PACE)
  t.after(() => clearInterval(timer))
  return numbers
}

// A viewer with `meta`: the numbers that it received, and the gaps.
async function watch(t, server) {
  const viewer = await connect(t, server.page)
  const seen = new Set(), gaps = []
  viewer.socket.on('message', payload => seen.add(Number(payload)))
  viewer.socket.on('gap', gap => gaps.push(gap))
  await viewer.join('room', { meta: true })
  return { seen, gaps }
}

// Every number from `first` to `last` was received, or was sent during a reported gap.
function assertLossesReported({ seen, gaps }, { sent }, first, last) {
  const SLACK = 100 // ms between a publisher's clock reading and the server's
  const lost = sent.map((at, number) => ({ at, number }))
    .filter(({ number }) => number >= first && number <= last && !seen.has(number))
  const unreported = lost.filter(({ at }) => !gaps.some(({ from, to }) => at >= from - SLACK && at <= to + SLACK))
  assert.deepEqual(unreported, [], `of ${lost.length} lost; gaps ${JSON.stringify(gaps)}`)
  return lost.length
}

// Waits until a number sent from now on has arrived, and so all events about a fault before it.
async function settled(viewer, numbers) {
  const next = numbers.sent.length + 10
  await until(() => viewer.seen.has(next), `${next} has arrived`)
  return next
}

const linked = redis => until(async () =>
  (await redis.client.info('replication')).includes('master_link_status:up'), 'the replica is linked')
const replicaOf = (t, port, args = []) =>
  startRedis(t, { args: ['--replicaof', `127.0.0.1 ${port}`, '--repl-diskless-sync-delay', '0', ...args] })

async function start(t, address, env) {
  const server = await startRoomcast(t, { REDISHOST: address, ...env })
  await server.subscribed()
  return server
}

describe('every loss is reported as a gap', { concurrency: 3 }, () => {
  test('when the watched master becomes a replica', async t => {
    const [watched, other] = [await startRedis(t), await startRedis(t)]
    const server = await start(t, watched.address)
    assert.equal((await server.status()).redis.role, 'master')
    const viewer = await watch(t, server)
    const numbers = startNumbers(t, watched)
    const first = await settled(viewer, numbers)
    numbers.to = other
    await watched.client.call('REPLICAOF', '127.0.0.1', other.port)
    await until(() => viewer.gaps.length > 0, 'a gap is reported')
    const last = await settled(viewer, numbers)
    assert.ok(assertLossesReported(viewer, numbers, first, last) > 0, 'the fault costs messages')
    const { redis } = await server.subscribed()
    assert.deepEqual([redis.role, redis.master], ['replica', `127.0.0.1:${other.port}`])
    assert.match(server.log(), /was a master and is a replica now/)
  })

  test('when a watched replica has to resynchronise fully after its link was down', async t => {
    const master = await startRedis(t, { args: ['--repl-backlog-size', '16384', '--repl-diskless-sync-delay', '0'] })
    const link = await startProxy(t, master.port)
    const replica = await replicaOf(t, link.port)
    await linked(replica)
    const server = await start(t, replica.address)
    const viewer = await watch(t, server)
    const numbers = startNumbers(t, master)
    const first = await settled(viewer, numbers)
    link.refuses = true
    link.cut()
    const stale = await until(async () => {
      const status = await server.status()
      return !status.redis.ok && status
    }, 'the broken link is noticed')
    assert.deepEqual([stale.code, stale.ready, stale.redis.state], [503, true, 'stale'])
    assert.match(stale.redis.error, /link to its master .* is down/)
    assert.equal(await server.metric('roomcast_source_up'), 0)
    // More than the replication backlog holds.
    for (let i = 0; i < 50; i++) await master.publish('other', 'x'.repeat(1000))
    link.refuses = false
    await until(() => viewer.gaps.length > 0, 'a gap is reported')
    const last = await settled(viewer, numbers)
    assert.ok(assertLossesReported(viewer, numbers, first, last) > 0, 'the fault costs messages')
    assert.equal((await server.subscribed()).redis.role, 'replica')
  })

  test('and no gap is reported when a watched replica catches up by itself', async t => {
    const master = await startRedis(t, { args: ['--repl-diskless-sync-delay', '0'] })
    const link = await startProxy(t, master.port)
    const replica = await replicaOf(t, link.port)
    await linked(replica)
    const server = await start(t, replica.address)
    const viewer = await watch(t, server)
    const numbers = startNumbers(t, master)
    const first = await settled(viewer, numbers)
    link.refuses = true
    link.cut()
    await until(async () => !(await server.status()).redis.ok, 'the broken link is noticed')
    link.refuses = false
    await server.subscribed()
    const last = await settled(viewer, numbers)
    assert.equal(assertLossesReported(viewer, numbers, first, last), 0)
    assert.deepEqual(viewer.gaps, [])
  })

  test('when the name leads to another master while the watched one stays up', async t => {
    const [watched, other] = [await startRedis(t), await startRedis(t)]
    const name = await startProxy(t, watched.port)
    const server = await start(t, `127.0.0.1:${name.port}`)
    const viewer = await watch(t, server)
    const numbers = startNumbers(t, watched)
    const first = await settled(viewer, numbers)
    name.to = other.port
    numbers.to = other
    await until(() => viewer.gaps.length > 0, 'a gap is reported')
    const last = await settled(viewer, numbers)
    assert.ok(assertLossesReported(viewer, numbers, first, last) > 0, 'the fault costs messages')
    assert.match(server.log(), /leads to another Redis now/)
    assert.equal((await server.subscribed()).redis.reconnects, 1)
  })

  test('when the name leads elsewhere and the user may not read INFO', async t => {
    const [watched, other] = [await startRedis(t), await startRedis(t)]
    for (const { client } of [watched, other]) {
      await client.call('ACL', 'SETUSER', 'watcher', 'on', '>secret', '&*', '+@pubsub', '+@connection')
    }
    const name = await startProxy(t, watched.port)
    const server = await start(t, `redis://watcher:secret@127.0.0.1:${name.port}`)
    const { redis } = await server.status()
    assert.deepEqual([redis.role, redis.run_id], ['unknown', null])
    const viewer = await watch(t, server)
    const numbers = startNumbers(t, watched)
    const first = await settled(viewer, numbers)
    name.to = other.port
    numbers.to = other
    await until(() => viewer.gaps.length > 0, 'a gap is reported')
    const last = await settled(viewer, numbers)
    assertLossesReported(viewer, numbers, first, last)
  })
})

describe('a slow link', { concurrency: 2 }, () => {
  test('with a round trip of 2.5 s is subscribed, and delivers', async t => {
    const redis = await startRedis(t)
    const link = await startProxy(t, redis.port)
    link.latency = 1250
    const server = await start(t, `127.0.0.1:${link.port}`)
    const viewer = await connect(t, server.page)
    await viewer.join('room')
    await until(async () => await server.metric('roomcast_source_round_trip_seconds') > 2, 'a probe has come back')
    await redis.publish('room', 'hello')
    assert.deepEqual(await viewer.heard(1), [['hello']])
    assert.equal((await server.status()).redis.reconnects, 0)
  })

  test('that is cut loses messages in flight, and a gap is reported', async t => {
    const redis = await startRedis(t)
    const link = await startProxy(t, redis.port)
    link.latency = 500
    const server = await start(t, `127.0.0.1:${link.port}`)
    const viewer = await watch(t, server)
    const numbers = startNumbers(t, redis)
    const first = await settled(viewer, numbers)
    await until(async () => await server.metric('roomcast_source_round_trip_seconds') > 0.9, 'a probe under traffic')
    link.cut()
    await until(() => viewer.gaps.length > 0, 'a gap is reported')
    const last = await settled(viewer, numbers)
    assert.ok(assertLossesReported(viewer, numbers, first, last) > 0, 'the fault costs messages')
  })
})

test('a Redis without RESP3 is watched over two connections, and its role is known', async t => {
  const redis = await startRedis(t, { args: ['--rename-command', 'HELLO', ''] })
  const other = await startRedis(t)
  const server = await start(t, redis.address)
  const viewer = await watch(t, server)
  const numbers = startNumbers(t, redis)
  const first = await settled(viewer, numbers)
  numbers.to = other
  await redis.client.call('REPLICAOF', '127.0.0.1', other.port)
  await until(() => viewer.gaps.length > 0, 'a gap is reported')
  const last = await settled(viewer, numbers)
  assertLossesReported(viewer, numbers, first, last)
  assert.equal((await server.subscribed()).redis.role, 'replica')
})

describe('REDISHOST that leads to several servers', { concurrency: 2 }, () => {
  test('is no reason to leave the master for its replica', async t => {
    const master = await startRedis(t, { args: ['--repl-diskless-sync-delay', '0'] })
    const replica = await replicaOf(t, master.port)
    await linked(replica)
    const name = await startProxy(t, master.port)
    const server = await start(t, `127.0.0.1:${name.port}`)
    name.to = replica.port
    const { redis } = await until(async () => {
      const status = await server.status()
      return status.redis.note && status
    }, 'the status has a note')
    assert.match(redis.note, /also leads to a replica .* of the same replication/)
    assert.deepEqual([redis.role, redis.reconnects, redis.ok], ['master', 0, true])
  })
})

describe('REDIS_PUBLISH_HOST', { concurrency: 2 }, () => {
  test('probes from the master to the watched replica, and receives what POST publishes', async t => {
    const master = await startRedis(t, { args: ['--repl-diskless-sync-delay', '0'] })
    const replica = await replicaOf(t, master.port)
    await linked(replica)
    const server = await start(t, replica.address, { REDIS_PUBLISH_HOST: master.address, PUBLISH_TOKEN: 'token-of-16-bytes' })
    const viewer = await connect(t, server.page)
    await viewer.join('room')
    const answer = await fetch(new URL('/publish/room', server.page), {
      method: 'POST', body: 'hello', headers: { authorization: 'Bearer token-of-16-bytes' },
    })
    assert.deepEqual(await answer.json(), { subscribers: 0 }) // subscribers of the master itself
    assert.deepEqual(await viewer.heard(1), [['hello']])
    assert.ok((await server.status()).redis.ok)
  })

  test('that is not the master of the watched Redis is reported', async t => {
    const [watched, other] = [await startRedis(t), await startRedis(t)]
    const server = await startRoomcast(t, { REDISHOST: watched.address, REDIS_PUBLISH_HOST: other.address })
    const { code, redis } = await until(async () => {
      const status = await server.status()
      return status.redis.state === 'stale' && status
    }, 'it is noticed')
    assert.equal(code, 503)
    assert.match(redis.error, /REDIS_PUBLISH_HOST/)
  })
})

describe('errors as answers to probes', { concurrency: 3 }, () => {
  for (const [error, says] of [
    ["-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", /MASTERDOWN|MasterDown|Link with MASTER/],
    ['-LOADING Redis is loading the dataset in memory', /loading/i],
    ['-NOAUTH Authentication required.', /REDIS_PASSWORD/],
  ]) {
    test(`${error.split(' ')[0]} to PING and to PUBLISH is a failure whose text is in the status`, async t => {
      const redis = await startRedis(t)
      const proxy = await startFaultyProxy(t, redis.port)
      const server = await start(t, `127.0.0.1:${proxy.port}`)
      proxy.answer = error
      const { code, redis: source } = await until(async () => {
        const status = await server.status()
        return !status.redis.ok && says.test(status.redis.error) && status
      }, `the status says ${error}`)
      assert.deepEqual([code, source.state], [503, 'down'])
      proxy.answer = undefined
      await server.subscribed()
    })
  }

  test('a Sentinel is refused as REDISHOST', async t => {
    const port = await freePort()
    const file = join(await temporaryFolder(t), 'sentinel.conf')
    await writeFile(file, `port ${port}\nbind 127.0.0.1\n`)
    startProgram(t, 'redis-server', [file, '--sentinel'])
    const server = await startRoomcast(t, { REDISHOST: `127.0.0.1:${port}` })
    const { redis } = await until(async () => {
      const status = await server.status()
      return /Sentinel/.test(status.redis.error) && status
    }, 'the status names it')
    assert.match(redis.error, /set REDISHOST to the Redis that it watches/)
  })
})

// A proxy that can answer every command with an error instead of passing it on.
async function startFaultyProxy(t, port) {
  const proxy = { answer: undefined }
  const server = createServer(near => {
    const far = connectTcp(port, '127.0.0.1')
    near.on('error', () => {}).on('close', () => far.destroy()).on('data', data => {
      if (proxy.answer === undefined) return far.write(data)
      const commands = data.toString('latin1').match(/\*\d+\r\n\$/g) ?? []
      near.write(`${proxy.answer}\r\n`.repeat(commands.length))
    })
    far.on('error', () => {}).on('close', () => near.destroy()).on('data', data => near.write(data))
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  proxy.port = server.address().port
  t.after(() => server.close())
  return proxy
}
