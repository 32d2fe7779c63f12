// The cut test at full size: Roomcast, then Socket.IO on Node, each without and with an outage of
// its subscription. Prints the tables; with --write, they take their place in README.md.

import { fileURLToPath } from 'node:url'
import { RoomcastViewer, SocketioViewer, cutTest } from '../tests/node/cut.mjs'
import { start, startRedis, startRoomcast, until } from '../tests/node/support.mjs'
import { owning } from './owner.mjs'
import { grouped, keep, machine, table } from './table.mjs'

const LOAD = { viewers: 200, seconds: 60, rate: 50, up: [1, 9], seed: 1 }
const PEER = fileURLToPath(new URL('peers/socketio.mjs', import.meta.url))

const SERVERS = {
  Roomcast: async (owner, redis) => {
    const server = await startRoomcast(owner, { REDISHOST: redis.address, HISTORY: '5000' })
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
  ['viewers', out => out.viewers],
  ['cuts', out => grouped(out.cuts)],
  ['reconnects', out => grouped(out.comebacks)],
  ['recovered', out => percent(out.recovered, out.comebacks)],
  ['messages expected', out => grouped(out.expected)],
  ['delivered once', out => grouped(out.once)],
  ['missing', out => grouped(out.missing)],
  ['doubled', out => grouped(out.doubled)],
  ['out of order', out => grouped(out.late)],
  ['viewers with all', out => out.complete],
]

const OUTAGE_COLUMNS = [
  ...COLUMNS.slice(0, -1),
  ['published into the outage', out => out.outage],
  ['missing besides', out => grouped(out.missingElse)],
  ['viewers told', out => out.told],
  ['viewers told that nothing is missing', out => out.claimed],
]

async function measure(kill) {
  const rows = []
  for (const [name, startServer] of Object.entries(SERVERS)) {
    console.error(`${name}: ${LOAD.viewers} viewers, ${LOAD.seconds} s${kill ? ', one CLIENT KILL' : ''} …`)
    const outcome = await owning(async owner => {
      const redis = await startRedis(owner)
      return cutTest(owner, { ...LOAD, ...await startServer(owner, redis), redis, kill })
    })
    rows.push([name, outcome])
  }
  const columns = kill ? OUTAGE_COLUMNS : COLUMNS
  // A measure a line: so many columns would fit no page.
  const lines = columns.map(([title, of]) => [title, ...rows.map(([, outcome]) => of(outcome))])
  return table(['', ...rows.map(([name]) => name)], lines)
}

const text = `Measured on ${machine()}.

${await measure(false)}

With one \`CLIENT KILL TYPE pubsub\` half-way:

${await measure(true)}`

console.log(text)
if (process.argv.includes('--write')) await keep('cut', text)
