// A good viewer beside hostile clients: what it misses, and how late its messages are. The server
// and the viewer have one core, the attacker the other. Prints the table; with --write, it takes its
// place in README.md.

import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { run, start, startRedis, startRoomcast, until } from '../tests/node/support.mjs'
import { owning } from './owner.mjs'
import { grouped, keep, machine, table } from './table.mjs'

const ATTACKERS = fileURLToPath(new URL('attackers.mjs', import.meta.url))
const BINARY = process.env.ROOMCAST_BIN
const VIEWER = ['--viewers', '1', '--rate', '50', '--json', '--for']
const [BEFORE, DURING] = ['6s', '15s']
const CHANNELS = 100_000

const ROWS = [
  ['bodies', '300 POST bodies of 1 MiB that never end'],
  ['messages', '800 WebSocket messages of 131 kB that never end'],
  ['rooms', '250 sockets in 256 rooms each'],
  ['channels', `4 sockets that list ${grouped(CHANNELS)} channels by a slow pattern, without pause`],
  ['connects', '4 sockets that send CONNECT without pause'],
  ['joins', '4 sockets that join with a replay and leave, without pause'],
  ['streams', '8 connections that send HEAD /events without pause'],
  ['replays', '200 event streams with a replay, each closed at once'],
  ['histories', '200 sockets that ask for a history of 10,000 messages every 1.5 s'],
  ['sessions', '2 connections that open polling sessions without pause'],
]

async function rss(pid) {
  const [, pages] = (await readFile(`/proc/${pid}/statm`, 'latin1')).split(' ')
  return Number(pages) * 4096 / 1e6
}

// A viewer of its own room for a while, on the server's core.
async function watch(owner, page, redis, time) {
  const args = ['-c', '0', BINARY, 'bench', ...VIEWER, time, page]
  const { code, stdout, stderr } = await run(owner, 'taskset', args, { env: { REDISHOST: redis.address } })
  // A lost message is an outcome, not a failure of the benchmark.
  if (!stdout) throw new Error(`roomcast bench ended with ${code}: ${stderr}`)
  return JSON.parse(stdout)
}

async function fill(redis) {
  const batch = async commands => { await redis.client.pipeline(commands).exec() }
  await batch(Array.from({ length: 100 }, () => ['publish', 'hot', 'x'.repeat(1000)]))
  for (let from = 0; from < CHANNELS; from += 1000) {
    await batch(Array.from({ length: 1000 }, (_, index) => ['publish', `plant/machine-${from + index}/temperature`, '21']))
  }
}

const fillOne = redis => redis.client.pipeline(
  Array.from({ length: 10_000 }, (_, number) => ['publish', 'long', `${number} ${'x'.repeat(100)}`])).exec()

const measure = name => owning(async owner => {
  const redis = await startRedis(owner)
  const server = await startRoomcast(owner, { REDISHOST: redis.address, HISTORY_BYTES: '128MiB' }, [], BINARY)
  await server.subscribed()
  await run(owner, 'taskset', ['-acp', '0', `${server.pid}`])
  if (['channels', 'joins', 'streams', 'replays'].includes(name)) await fill(redis)
  if (name === 'histories') await fillOne(redis)
  const before = await watch(owner, server.page, redis, BEFORE)
  const memory = await rss(server.pid)
  const attacker = start(owner, 'taskset', ['-c', '1', process.execPath, ATTACKERS, name, new URL(server.page).port])
  await until(() => {
    if (attacker.code !== undefined) throw new Error(`the attacker ended: ${attacker.stderr}`)
    return attacker.stdout
  }, 'the attack is under way')
  let most = memory
  const looks = setInterval(async () => { most = Math.max(most, await rss(server.pid)) }, 100)
  const during = await watch(owner, server.page, redis, DURING).finally(() => clearInterval(looks))
  const ms = out => out.latency_ms.p99.toFixed(1)
  return [`${during.lost + during.closed}`, ms(before), ms(during), memory.toFixed(0), most.toFixed(0)]
})

const { values: { write, only } } = parseArgs({ options: { write: { type: 'boolean' }, only: { type: 'string' } } })
const rows = []
for (const [name, title] of ROWS.filter(([name]) => !only || only.split(',').includes(name))) {
  console.error(`${title} …`)
  rows.push([title, ...await measure(name)])
}
const head = ['attack', 'messages missed', 'p99 before, ms', 'p99 during, ms', 'RSS before, MB', 'at most, MB']
const text = `Measured on ${machine()}.\n\n${table(head, rows)}`
console.log(text)
if (write) await keep('attacks', text)
