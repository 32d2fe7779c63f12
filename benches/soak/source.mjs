// A Redis that is published to all the time, and that goes away in every way there is.

import { setTimeout as pause } from 'node:timers/promises'
import { startRedis } from '../../tests/node/support.mjs'
import { HEAVY, ROOMS } from './viewers.mjs'

const TICK = 50 // ms
const HEAVY_EVERY = 10 // messages
const HEAVY_PAYLOAD = 'x'.repeat(8 << 10) // bytes
const PAUSE = 20_000 // ms between two outages
const STOPPED = 9_000 // ms: longer than the server needs to notice

export async function startSource(owner, rate) {
  let redis = await startRedis(owner)
  let published = 0
  const publish = () => {
    const number = published++
    const heavy = number % HEAVY_EVERY === 0
    const room = heavy ? HEAVY : ROOMS[number % ROOMS.length]
    redis.publish(room, heavy ? HEAVY_PAYLOAD : `${number} of a load that goes on and on`).catch(() => {}) // it is away
  }
  let timer
  const outages = {
    'subscription killed': () => redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub'),
    'Redis killed': async () => {
      await redis.kill()
      redis = await startRedis(owner, { port: redis.port })
    },
    'Redis stopped': async over => {
      redis.signal('SIGSTOP')
      await pause(STOPPED, undefined, { signal: over }).catch(() => {})
      redis.signal('SIGCONT')
    },
  }
  return {
    address: redis.address,
    begin: () => {
      timer = setInterval(() => { for (let left = rate * TICK / 1000; left > 0; left--) publish() }, TICK)
      owner.after(() => clearInterval(timer))
    },
    end: () => clearInterval(timer),
    published: () => published,
    // One kind of outage after the other, until `over`; returns how many there were of each.
    outages: async (server, over, counts) => {
      for (let turn = 0; ; turn++) {
        await pause(PAUSE, undefined, { signal: over }).catch(() => {})
        if (over.aborted) return counts
        const [name, outage] = Object.entries(outages)[turn % 3]
        await outage(over)
        await server.subscribed()
        counts[name] = (counts[name] ?? 0) + 1
      }
    },
  }
}
