// Authorization: tokens of every algorithm, with every client, from the handshake to expiry.

import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import test, { describe } from 'node:test'
import { command, startBoth, until } from './support.mjs'
import { inSeconds, SECRET, signed, token } from './tokens.mjs'
import { connect, KINDS, newRoom, open } from './viewer.mjs'

const RSA = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']
const KEYS = {
  'RSA 2048': ['rsa', { modulusLength: 2048 }, RSA],
  'RSA 4096': ['rsa', { modulusLength: 4096 }, RSA],
  'P-256': ['ec', { namedCurve: 'P-256' }, ['ES256']],
  'P-384': ['ec', { namedCurve: 'P-384' }, ['ES384']],
  'Ed25519': ['ed25519', {}, ['EdDSA']],
}
const CLAIMS = { rooms: ['room'], exp: inSeconds(600) }

// The status of a request for the events of a room, with a token.
async function look(server, token, room = 'room') {
  const answer = await fetch(`${server.page}/events/${room}`, { headers: { authorization: `Bearer ${token}` } })
  await answer.body.cancel()
  return answer.status
}

describe('a public key', () => {
  for (const [name, [kind, options, algorithms]] of Object.entries(KEYS)) {
    test(`of ${name} verifies ${algorithms} and no other algorithm`, async t => {
      const { publicKey, privateKey } = generateKeyPairSync(kind, options)
      const pem = publicKey.export({ type: 'spki', format: 'pem' })
      const { server } = await startBoth(t, { JWT_PUBLIC_KEY: pem })
      for (const alg of algorithms) {
        assert.equal(await look(server, signed(alg, privateKey, CLAIMS)), 200, alg)
        const wide = signed(alg, privateKey, { ...CLAIMS, rooms: ['*'] }).split('.')
        const [head, , signature] = signed(alg, privateKey, CLAIMS).split('.')
        assert.equal(await look(server, [head, wide[1], signature].join('.')), 401, `${alg}, forged`)
        assert.equal(await look(server, signed(alg, privateKey, { ...CLAIMS, exp: inSeconds(-60) })), 401)
        const stranger = generateKeyPairSync(kind, options).privateKey
        assert.equal(await look(server, signed(alg, stranger, CLAIMS)), 401, `${alg}, by a stranger`)
      }
      assert.equal(await look(server, signed('none', '', CLAIMS)), 401)
      // A public key is not accepted as an HMAC secret.
      const der = publicKey.export({ type: 'spki', format: 'der' })
      for (const secret of [pem, pem.trim(), der]) {
        for (const alg of ['HS256', 'HS384', 'HS512']) {
          assert.equal(await look(server, signed(alg, secret, CLAIMS)), 401, alg)
        }
      }
    })
  }

  test('in PKCS 1 with escaped line breaks is accepted', async t => {
    const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const pem = publicKey.export({ type: 'pkcs1', format: 'pem' })
    const { server } = await startBoth(t, { JWT_PUBLIC_KEY: pem.replaceAll('\n', '\\n') })
    assert.equal(await look(server, signed('PS256', privateKey, CLAIMS)), 200)
  })
})

// How each client sends its token. Clients of Engine.IO 3 have no `auth`.
const ways = ({ version }) => version >= 3
  ? { auth: token => ({ auth: { token } }), header: token => ({ extraHeaders: { authorization: `Bearer ${token}` } }) }
  : { query: token => ({ query: { token } }), header: token => ({ extraHeaders: { authorization: `Bearer ${token}` } }) }

for (const kind of KINDS) {
  describe(`with tokens, client ${kind.version} by ${kind.transports.join(', then ')}`, async () => {
    const { redis, server } = await startBoth(test, { JWT_SECRET: SECRET, LOG_LEVEL: 'trace' })

    for (const [way, options] of Object.entries(ways(kind))) {
      // Client 1 cannot send headers: not in browsers, nor with its XMLHttpRequest for Node.
      if (way === 'header' && kind.version === '1') continue
      test(`joins only what its token, sent as ${way}, allows`, async t => {
        const room = newRoom()
        const mine = token([room], 600)
        const viewer = await connect(t, server.page, kind, options(mine))
        await viewer.join(room)
        const { ok, error } = await viewer.ask('channel', newRoom())
        assert.deepEqual({ ok, code: error.code }, { ok: false, code: 'forbidden' })
        await redis.publish(newRoom(), 'not for it')
        await redis.publish(room, 'for it')
        assert.deepEqual(await viewer.heard(1), [['for it']])
        const { channels } = await viewer.ask('channels', '*')
        assert.deepEqual(channels.map(channel => channel.room), [room])
        assert.deepEqual(viewer.disconnects, [])
        assert.ok(!server.log().includes(mine), 'the log contains no token')
      })
    }

    test('gets the reason why it cannot connect', async t => {
      for (const [wrong, told] of [[undefined, /a token is needed/], ['x.y.z', /no JWT/], [token(['*'], -100), /expired/]]) {
        const [options] = Object.values(ways(kind))
        const viewer = open(t, server.page, kind, { reconnection: false, ...(wrong ? options(wrong) : {}) })
        let reason
        viewer.socket.on(kind.version >= 3 ? 'connect_error' : 'error', error => { reason = error.message ?? error })
        await until(() => reason, 'it gets the reason')
        assert.match(reason, told)
        assert.equal(viewer.socket.connected, false)
      }
    })

    test('renews its token in place, or is disconnected when it expires', async t => {
      const [options] = Object.values(ways(kind))
      const room = newRoom()
      const [renewed, lapsed] = await Promise.all([1, 2].map(() =>
        connect(t, server.page, kind, { reconnection: false, ...options(token([room], 5)) })))
      const codes = viewer => viewer.refusals.map(({ code }) => code)
      for (const viewer of [renewed, lapsed]) {
        await viewer.join(room)
        await until(() => codes(viewer).includes('expiring'), 'it gets the notice that its token expires')
      }
      assert.deepEqual(await renewed.ask('auth', { token: token([room], 600) }), { ok: true, left: [] })
      await until(() => lapsed.disconnects.length > 0, 'it is disconnected')
      assert.deepEqual(codes(lapsed), ['expiring', 'expired'])
      await redis.publish(room, 'afterwards')
      assert.deepEqual(await renewed.heard(1), [['afterwards']])
      assert.deepEqual(lapsed.messages, [])
      assert.deepEqual(codes(renewed), ['expiring'])
    })
  })
}

describe('the command token', () => {
  const run = (t, args, env) => command(t, ['token', ...args], env)

  test('prints a token that the server accepts, and a link to the page', async t => {
    const { server } = await startBoth(t, { JWT_SECRET: SECRET, JWT_AUDIENCE: 'us' })
    const env = { JWT_SECRET: SECRET, JWT_AUDIENCE: 'us', RTHOST: 'rt.example', CERT_DIR: 'unused' }
    const { code, stdout, stderr } = await run(t, ['--room', 'room', '--room', 'de*', '--publish', 'in', '--ttl', '90s'], env)
    assert.equal(code, 0)
    assert.match(stdout, /^[\w-]+\.[\w-]+\.[\w-]+\n$/)
    const mine = stdout.trim()
    const [link, linked] = stderr.trim().split('#token=')
    assert.equal(link, 'https://rt.example/?room=room')
    assert.equal(await look(server, linked), 200)
    assert.equal(await look(server, mine), 200)
    assert.equal(await look(server, mine, 'device'), 200)
    assert.equal(await look(server, mine, 'other'), 403)
    const publish = (channel, token) => fetch(`${server.page}/publish/${channel}`, {
      method: 'POST', headers: { authorization: `Bearer ${token}` }, body: 'x',
    })
    assert.equal((await publish('in', mine)).status, 202)
    assert.equal((await publish('room', mine)).status, 403)
    assert.equal((await publish('in', linked)).status, 403, 'a link only lets watch')
  })

  test('links to the page behind a proxy', async t => {
    const page = 'https://proxy.example/live/'
    const { stdout, stderr } = await run(t, ['--room', 'a b', '--page', page], { JWT_SECRET: SECRET })
    assert.equal(stderr, `${page}?room=a+b#token=${stdout}`)
  })

  test('links to a room that a pattern allows', async t => {
    const { stderr } = await run(t, ['--room', 'device:*'], { JWT_SECRET: SECRET })
    assert.match(stderr, /\?room=device%3A01#token=/)
  })

  test('says which setting is missing', async t => {
    const { code, stderr } = await run(t, ['--room', 'x'], {})
    assert.deepEqual([code, /JWT_SECRET/.test(stderr)], [1, true])
  })
})
