// The soak: hours of a server's life in little time, and whether it is afterwards what it was.

import { setMaxListeners } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { startRoomcast } from '../../tests/node/support.mjs'
import { seeded } from '../../tests/node/cut.mjs'
import { grouped, machine, table } from '../table.mjs'
import { owning } from '../owner.mjs'
import { GAUGES, childOf, sample } from './server.mjs'
import { startSource } from './source.mjs'
import { passer, reader, seat, sleeper, witness } from './viewers.mjs'

const RATE = 200 // messages a second
const SEATS = [[passer, 30], [reader, 4], [sleeper, 3]]
const SEED = 1
const SAMPLE_EVERY = 5_000 // ms
const ROWS = 20 // of the printed samples
const WARM_UP = 0.15 // of the whole time
// ms for the last traces of viewers to go: a polling session that fell silent lives for 45 s, a
// history as long as its TTL, 30 s here, and a sweep.
const SETTLE = 120_000
const OWN_CONNECTIONS = 1 // made when needed first: the one that probes go out by
const RSS_TIMES = 1.3
const RSS_MORE = 8 // MB

const seconds = Number(process.argv[2])
setTimeout(() => {
  console.error('tests/soak: not over in time')
  process.kill(process.pid, 'SIGTERM')
}, seconds * 1000 + 3 * SETTLE).unref()

const good = await owning(async owner => {
  const source = await startSource(owner, RATE)
  const server = await startRoomcast(owner, { REDISHOST: source.address, SLOW_AFTER: '3s', HISTORY_TTL: '30s' })
  await server.subscribed()
  const pid = await childOf(process.env.ROOMCAST_BIN)
  const look = () => sample(pid, server.admin)
  const start = await look()
  const lives = { count: 0 }
  const outages = {}
  const random = seeded(SEED)

  // Everybody comes, and after some seconds all are gone. Returns the samples of that time.
  const live = async (seconds, { calm = false } = {}) => {
    const everybody = new AbortController()
    setMaxListeners(0, everybody.signal) // everybody waits for it
    const end = performance.now() + seconds * 1000
    const samples = []
    source.begin()
    const jobs = SEATS.flatMap(([kind, count]) =>
      Array.from({ length: count }, () => seat(kind, random, server.page, everybody.signal, lives)))
    if (!calm) jobs.push(source.outages(server, everybody.signal, outages))
    const failed = Promise.all(jobs).then(() => new Promise(() => {}))
    const print = Math.max(1, Math.floor(seconds * 1000 / SAMPLE_EVERY / ROWS))
    while (performance.now() < end) {
      await Promise.race([pause(Math.min(SAMPLE_EVERY, end - performance.now())), failed])
      samples.push(await look())
      if (samples.length % print === 0) console.log(shown(samples.at(-1)))
    }
    everybody.abort()
    await Promise.all(jobs)
    source.end()
    return samples
  }
  // The first look at which all is as it should be, or the last one in vain.
  const settled = async should => {
    const end = performance.now() + SETTLE
    for (;;) {
      const now = await look()
      if (should(now) || performance.now() > end) return now
      await pause(1_000)
    }
  }
  const began = performance.now()
  const shown = now => [
    `${Math.round((performance.now() - began) / 1000)} s`,
    `${now.rss.toFixed(1)} MB`,
    ...['fds', 'sockets', 'members', 'messages', 'reconnects', 'slow'].map(key => `${now[key]} ${key}`),
  ].join('  ')
  const idle = now => Object.keys(GAUGES).every(gauge => now[gauge] === 0)

  await live(seconds * WARM_UP, { calm: true })
  // Until here, what is kept for the next time is allowed to grow: this is the measure of the rest.
  const rested = now => idle(now) && now.fds <= start.fds + OWN_CONNECTIONS
  const warm = await settled(rested)
  const watching = await witness(owner, server.page)
  const samples = await live(seconds * (1 - WARM_UP))
  watching.leave()
  const rssAllowed = Math.max(RSS_TIMES * warm.rss, warm.rss + RSS_MORE)
  const passes = now => idle(now) && now.fds <= warm.fds && now.rss <= rssAllowed
  const last = await settled(passes)

  const peak = key => Math.max(...samples.map(now => now[key]))
  const rounded = (key, value) => (key === 'rss' ? value.toFixed(1) : grouped(value))
  const row = (name, key, allowed) =>
    [name, ...[start[key], warm[key], peak(key), last[key], allowed].map(value => rounded(key, value))]
  const rows = [
    row('RSS in MB', 'rss', rssAllowed),
    row('open files', 'fds', warm.fds),
    ...Object.keys(GAUGES).map(gauge => row(`\`${GAUGES[gauge]}\``, gauge, 0)),
  ]
  const facts = {
    'viewers came and went': lives.count,
    'messages published': source.published(),
    'messages received': last.messages,
    deliveries: last.deliveries,
    'slow viewers ended': last.slow + last.queueFull,
    ...outages,
    'subscriptions made again': last.reconnects,
    'messages to the viewer that stayed': watching.messages,
    'gaps told to it': watching.gaps,
    'holes not told': watching.holes,
    'times it was disconnected': watching.disconnects,
  }
  console.log(`\n${machine()}, ${seconds} s at ${RATE} messages a second\n`)
  console.log(table(['', ''], Object.entries(facts).map(([fact, count]) => [fact, grouped(count)])), '\n')
  console.log(table(['', 'start', 'warm, all gone', 'peak', 'end, all gone', 'allowed'], rows))
  // Were there no outages and no slow viewers, it would have proved little.
  const lived = last.slow + last.queueFull > 0 && watching.messages > 0
  return rested(warm) && passes(last) && watching.holes === 0 && watching.disconnects === 0 && lived
})
console.log(good ? '\npassed' : '\nFAILED')
process.exit(good ? 0 : 1)
