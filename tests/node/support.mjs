// Starts real processes, redis-server and roomcast, and ends them with the test that started them.
//
// Every process has an owner: the `t` of a test, or `test` itself for what a whole file shares.

import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as pause } from 'node:timers/promises'
import { Redis } from 'ioredis'

const BINARY = process.env.ROOMCAST_BIN
  ?? fileURLToPath(new URL('../../target/debug/roomcast', import.meta.url))

// ms. Only a failure takes this long. The slowest wait takes 17 s: for a Redis whose name leads
// elsewhere.
const DEADLINE = 40_000
const INTERVAL = 10

const PACE = 5 // ms: 200 messages a second

// Waits until a condition holds, and returns its value.
export async function until(condition, what) {
  const end = performance.now() + DEADLINE
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > end) throw new Error(`waited in vain until ${what}`)
    await pause(INTERVAL)
  }
}

// Starts a program whose environment has only PATH from this process, so that no setting leaks in.
export function start(owner, program, args, { env, input } = {}) {
  const child = spawn(program, args, { env: { PATH: process.env.PATH, ...env } })
  const run = {
    stdout: '',
    stderr: '',
    code: undefined, // exit code or signal, once it has ended
    pid: child.pid,
    signal: name => child.kill(name),
    ended: () => until(() => run.code !== undefined, `${program} ${args.join(' ')} ends`),
    kill: () => (child.kill('SIGKILL'), run.ended()),
  }
  for (const stream of ['stdout', 'stderr']) {
    child[stream].setEncoding('utf8').on('data', text => { run[stream] += text })
  }
  child.on('error', error => { run.stderr += error; run.code = error.code })
  child.on('close', (code, signal) => { run.code = code ?? signal })
  child.stdin.on('error', () => {}) // the program may exit without reading its input
  child.stdin.end(input)
  owner.after(run.kill)
  return run
}

// Runs a program to its end.
export async function run(owner, program, args, options) {
  const finished = start(owner, program, args, options)
  await finished.ended()
  return finished
}

// A subcommand of roomcast: started, or run to its end.
export const startCommand = (owner, args, env, input) => start(owner, BINARY, args, { env, input })
export const command = (owner, args, env, input) => run(owner, BINARY, args, { env, input })

// A TCP proxy to a server: `cut` resets all connections; new ones work, and `lead` switches their
// target.
export async function startCable(owner, url) {
  let target
  const lead = url => { target = new URL(url) }
  lead(url)
  const ends = new Set()
  const cable = createServer(near => {
    const far = connect(target.port, target.hostname)
    for (const end of [near, far]) ends.add(end.on('close', () => ends.delete(end)))
    pipeline(near, far, near).catch(() => {}) // a cut causes this error
  })
  await new Promise(resolve => cable.listen(0, '127.0.0.1', resolve))
  const cut = () => ends.forEach(end => end.resetAndDestroy())
  owner.after(() => (cable.close(), cut()))
  return { url: `http://127.0.0.1:${cable.address().port}`, cut, lead }
}

export async function temporaryFolder(owner) {
  const folder = await mkdtemp(join(tmpdir(), 'roomcast-'))
  owner.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

// A port that stays free while nothing listens there. It is below 32768: the kernel uses those
// above for outgoing connections, so a restarted server could find its port in use by a client.
let given = Math.floor(Math.random() * 10_000)
export async function freePort() {
  const port = 20_000 + given++ % 10_000
  const listener = createServer()
  const free = await new Promise(resolve => {
    listener.on('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true))
  })
  if (!free) return freePort()
  await new Promise(resolve => listener.close(resolve))
  return port
}

// A redis-server, with a client for publishing and for commands.
export async function startRedis(owner, { port, password, args = [] } = {}) {
  port ??= await freePort()
  const secret = password ? ['--requirepass', password] : []
  // A replica writes what its master sends into this folder.
  const folder = await temporaryFolder(owner)
  const server = start(owner, 'redis-server', [
    '--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder, ...secret, ...args,
  ])
  await until(() => running(server).stdout.includes('Ready to accept'), 'redis-server is ready')
  const client = new Redis({
    host: '127.0.0.1', port, password, lazyConnect: true, retryStrategy: null, disconnectTimeout: 0,
  })
  client.on('error', () => {}) // pending commands fail with the error
  owner.after(() => client.disconnect())
  return {
    address: `127.0.0.1:${port}`,
    port,
    client,
    signal: server.signal,
    kill: server.kill,
    publish: (channel, payload) => client.publish(channel, payload),
    cli: (...command) => run(owner, 'redis-cli', ['-p', port, ...command]),
  }
}

// Roomcast with these settings. It listens when this returns, but may not have reached Redis yet.
export async function startRoomcast(owner, env, args = [], binary = BINARY) {
  const settings = { HTTP_ADDR: '127.0.0.1:0', ADMIN_ADDR: '127.0.0.1:0', LOG_FORMAT: 'json', ...env }
  const server = start(owner, binary, args, { env: settings })
  const serving = () => running(server).stderr.split('\n').find(line => line.includes('"serving"'))
  const { page, admin, redis } = JSON.parse(await until(serving, 'roomcast serves'))
  const get = path => fetch(new URL(path, admin))
  const status = async () => {
    const answer = await get('/status')
    return { code: answer.status, ...await answer.json() }
  }
  return {
    pid: server.pid,
    page,
    admin: new URL(admin).host,
    redis,
    status,
    readiness: async () => (await get('/readyz')).status,
    metric: async name => {
      const lines = (await (await get('/metrics')).text()).split('\n')
      return Number(lines.find(line => line.startsWith(`${name} `)).slice(name.length))
    },
    // Waits for the subscription, and returns the status.
    subscribed: () => until(async () => {
      const now = await status()
      return now.redis.ok && now
    }, 'roomcast has subscribed'),
    log: () => server.stderr,
    signal: server.signal,
    kill: server.kill,
    pid: server.pid,
    // Stops the server in order; returns its exit code or the signal that ended it.
    stop: async () => {
      server.signal('SIGTERM')
      await server.ended()
      return server.code
    },
  }
}

// A Redis, and a roomcast that is subscribed to it.
export async function startBoth(owner, env) {
  const redis = await startRedis(owner)
  const server = await startRoomcast(owner, { REDISHOST: redis.address, ...env })
  await server.subscribed()
  return { redis, server }
}

// Publishes 0, 1, 2, … at a steady pace until `stop`, which returns how many there were.
export function startTraffic(owner, redis, room) {
  const sent = []
  const timer = setInterval(() => sent.push(redis.publish(room, `${sent.length}`)), PACE)
  owner.after(() => clearInterval(timer))
  return {
    count: () => sent.length,
    stop: async () => {
      clearInterval(timer)
      await Promise.all(sent)
      return sent.length
    },
  }
}

function running(server) {
  if (server.code === undefined) return server
  throw new Error(`ended with ${server.code}: ${server.stdout}${server.stderr}`)
}
