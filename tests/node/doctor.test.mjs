// The findings of `roomcast doctor` about a real Redis.

import assert from 'node:assert/strict'
import test, { describe } from 'node:test'
import { command, startRedis, until } from './support.mjs'

async function examine(t, redis, env = {}) {
  const { code, stdout, stderr } = await command(t, ['doctor', '--json'], {
    HTTP_ADDR: '127.0.0.1:0', ADMIN_ADDR: 'off', REDISHOST: redis.address, ...env,
  })
  assert.equal(stderr, '')
  const findings = JSON.parse(stdout)
  const find = (verdict, setting, says) => assert.ok(
    findings.some(found => found.verdict === verdict && found.setting === setting && says.test(found.text)),
    `${verdict} ${setting} ${says} in ${stdout}`,
  )
  const bad = findings.filter(({ verdict }) => verdict !== 'ok').length
  return { code, find, bad, stdout }
}

// Creates a user with these rights, and returns the variables to log in as this user.
async function user(redis, ...rights) {
  await redis.client.call('ACL', 'SETUSER', 'watcher', 'reset', 'on', '>secret', ...rights)
  return { REDIS_USERNAME: 'watcher', REDIS_PASSWORD: 'secret' }
}

describe('doctor', { concurrency: 4 }, () => {
  test('finds no fault in a default Redis, and publishes one empty probe', async t => {
    const redis = await startRedis(t)
    const { code, find, bad } = await examine(t, redis)
    find('ok', 'REDISHOST', /^Redis \d+\.\d+\.\d+ answers at 127\.0\.0\.1:/)
    find('ok', 'REDIS_CHANNELS', /all patterns/)
    find('ok', 'REDIS_CHANNELS', /came back/)
    find('ok', 'REDISHOST', /client-output-buffer-limit pubsub is 32\.0 MiB or 8\.0 MiB for 60 s/)
    assert.deepEqual([code, bad], [0, 0])
    const stats = await redis.client.info('commandstats')
    assert.match(stats, /cmdstat_publish:calls=1,/)
    for (const changing of ['set', 'config\\|set', 'acl\\|setuser']) {
      assert.doesNotMatch(stats, new RegExp(`cmdstat_${changing}:`))
    }
  })

  test('reports a wrong or missing password without printing it', async t => {
    const redis = await startRedis(t, { password: 'right' })
    const wrong = await examine(t, redis, { REDIS_PASSWORD: 'mistyped' })
    wrong.find('fail', 'REDISHOST', /refused the password: check REDIS_PASSWORD/)
    assert.deepEqual([wrong.code, wrong.bad], [1, 1])
    assert.doesNotMatch(wrong.stdout, /mistyped/)
    const none = await examine(t, redis)
    none.find('fail', 'REDISHOST', /wants a password: set REDIS_PASSWORD/)
    const right = await examine(t, redis, { REDIS_PASSWORD: 'right' })
    right.find('ok', 'REDISHOST', /password of the user default is accepted/)
    assert.deepEqual([right.code, right.bad], [0, 0])
  })

  test('names the patterns that a user may not subscribe to, and the missing right', async t => {
    const redis = await startRedis(t)
    const env = await user(redis, '&allowed:*', '+subscribe', '+psubscribe', '+ping')
    const narrow = await examine(t, redis, { ...env, REDIS_CHANNELS: 'allowed:*,other:*' })
    narrow.find('fail', 'REDIS_CHANNELS', /may not subscribe to other:\*: .*'&other:\*'$/)
    assert.equal(narrow.code, 1)
    const fitting = await examine(t, redis, { ...env, REDIS_CHANNELS: 'allowed:*' })
    fitting.find('ok', 'REDIS_CHANNELS', /do not cover roomcast:probe/)
    fitting.find('ok', 'REDISHOST', /cannot be asked for \(CONFIG GET\)/)
    fitting.find('warn', 'REDISHOST', /may not run INFO.*\+info$/)
    assert.deepEqual([fitting.code, fitting.bad], [0, 1])
  })

  test('warns, without failing, if probes may not be published', async t => {
    const redis = await startRedis(t)
    const env = await user(redis, '&*', '+psubscribe', '+ping')
    const { code, find, bad } = await examine(t, redis, env)
    find('warn', 'REDIS_CHANNELS', /watcher may not publish on roomcast:probe.*'&roomcast:probe:\*'$/)
    assert.deepEqual([code, bad], [0, 2]) // the other finding: it may not run INFO
  })

  test('warns about a replica, and fails if its link is down', async t => {
    const master = await startRedis(t, { args: ['--repl-diskless-sync-delay', '0'] })
    const replica = await startRedis(t, { args: ['--replicaof', `127.0.0.1 ${master.port}`] })
    await until(async () => (await replica.client.info('replication')).includes('link_status:up'), 'linked')
    const up = await examine(t, replica)
    up.find('warn', 'REDISHOST', /replica of 127\.0\.0\.1:\d+.*REDIS_PUBLISH_HOST/)
    const proven = await examine(t, replica, { REDIS_PUBLISH_HOST: master.address })
    proven.find('ok', 'REDIS_CHANNELS', /came back/)
    await master.kill()
    const down = await examine(t, replica)
    down.find('fail', 'REDISHOST', /link to the master .* is down/)
    assert.equal(down.code, 1)
  })

  test('warns about an output buffer limit that a burst would exceed', async t => {
    const redis = await startRedis(t, { args: ['--client-output-buffer-limit', 'pubsub 1mb 512kb 10'] })
    const { code, find, bad } = await examine(t, redis)
    find('warn', 'REDISHOST', /1\.0 MiB or 512\.0 KiB for 10 s.*less than Redis' default/)
    assert.deepEqual([code, bad], [0, 1])
  })
})
