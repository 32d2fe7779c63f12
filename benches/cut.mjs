// The cut test at full size, with default settings: Roomcast, then Socket.IO on Node, with viewers
// that are away for several lengths of time, and then with one of the subscription. Prints the tables; with
// --write, they take their place in README.md.

import { fileURLToPath } from 'node:url'
import { RoomcastViewer, SocketioViewer, cutTest } from '../tests/node/cut.mjs'
import { start, startRedis, startRoomcast, until } from '../tests/node/support.mjs'
import { owning } from './owner.mjs'
import { grouped, keep, machine, table } from './table.mjs'

const LOAD = { viewers: 50, up: [1, 9], seed: 1 }
// Seconds that viewers are away, and those of a run.
const AWAY = [[2, 20], [10, 40], [30, 80]]
const RATES = [10, 200]
const PEER = fileURLToPath(new URL('peers/socketio.mjs', import.meta.url))

const SERVERS = {
  Roomcast: async (owner, redis) => {
    const server = await startRoomcast(owner, { REDISHOST: redis.address })
    await server.subscribed()
    return { View: RoomcastViewer, url: server.page }
  },
  'Socket.IO on Node': async (owner, redis) => {
    const server = start(owner, process.execPath, [PEER, `${redis.port}`, 'recovery'])
    const port = () => {
      if (server.code !== undefined) throw new Error(`${PEER} ended: ${server.stderr}`)
      return /^(\d+)\n/.exec(server.stdout)?.[1]
    }
    return { View: SocketioViewer, url: `http://127.0.0.1:${await until(port, `${PEER} serves`)}` }
  },
}

const percent = (part, whole) => `${(100 * part / whole).toFixed(part === whole ? 0 : 2)} %`

const COLUMNS = [
  ['reconnects', out => grouped(out.comebacks)],
  ['recovered', out => percent(out.recovered, out.comebacks)],
  ['missing', out => grouped(out.missing)],
  ['doubled or out of order', out => grouped(out.doubled + out.late)],
]

const OUTAGE_COLUMNS = [
  ['messages expected', out => grouped(out.expected)],
  ['delivered once', out => grouped(out.once)],
  ...COLUMNS,
  ['published into the outage', out => out.outage],
  ['missing besides', out => grouped(out.missingElse)],
  ['viewers told', out => out.told],
  ['viewers told that nothing is missing', out => out.claimed],
]

async function measure(name, load) {
  console.error(`${name}: ${JSON.stringify(load)} …`)
  return owning(async owner => {
    const redis = await startRedis(owner)
    return cutTest(owner, { ...LOAD, ...load, ...await SERVERS[name](owner, redis), redis })
  })
}

async function cuts() {
  const rows = []
  for (const [away, seconds] of AWAY) {
    for (const rate of RATES) {
      for (const name of Object.keys(SERVERS)) {
        const outcome = await measure(name, { away, seconds, rate })
        rows.push([`${away} s, ${rate}/s`, name, ...COLUMNS.map(([, of]) => of(outcome))])
      }
    }
  }
  return table(['away, rate', 'server', ...COLUMNS.map(([title]) => title)], rows)
}

async function outage() {
  const names = Object.keys(SERVERS)
  const outcomes = []
  for (const name of names) outcomes.push(await measure(name, { seconds: 40, rate: 50, kill: true }))
  const lines = OUTAGE_COLUMNS.map(([title, of]) => [title, ...outcomes.map(of)])
  return table(['', ...names], lines)
}

const text = `Measured on ${machine()}. ${LOAD.viewers} viewers.

${await cuts()}

With one \`CLIENT KILL TYPE pubsub\` half-way, 50 messages a second, viewers away for 2 s:

${await outage()}`

console.log(text)
if (process.argv.includes('--write')) await keep('cut', text)
