// Roomcast beside its peers under load, each server anew for each measurement, in some rounds.
// Prints the table; with --write, it takes its place in README.md.

import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { setTimeout as pause } from 'node:timers/promises'
import { run, start, startRedis, temporaryFolder } from '../tests/node/support.mjs'
import { Owner, owning } from './owner.mjs'
import * as servers from './peers/servers.mjs'
import { rows } from './rows.mjs'
import { grouped, keep, machine, table } from './table.mjs'
import { startSpace, startVanishing } from './vanish.mjs'

const ROUNDS = '3'
const PATIENCE = 180_000 // ms for one measurement: the longest takes 60 s, and then some
const BUDGET = 25 * 60_000 // ms for all; what has not begun by then is left out
const LOOK_EVERY = 50 // ms
const TOGETHER = ['--run', 1] // for two benchmarks in the same room

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean' }, only: { type: 'string' }, write: { type: 'boolean' },
    rounds: { type: 'string', default: ROUNDS }, against: { type: 'string' },
  },
})
const NAMES = {
  limit: 'the limit', roomcast: 'Roomcast', ...options.against && { before: 'Roomcast before' },
  socketio: 'Socket.IO on Node', nchan: 'nchan',
}
if (options.against) process.env.AGAINST = resolve(options.against)
const all = rows(options.quick)
const keys = options.only?.split(',')
const chosen = all.filter(row => !keys || keys.includes(row.key))
if (chosen.length === 0) {
  console.error(`no row ${options.only}: there are ${all.map(row => row.key).join(', ')}`)
  process.exit(2)
}
const rounds = options.quick ? 1 : Number(options.rounds)
if (!(rounds >= 1)) {
  console.error(`--rounds is a number from 1 on, not ${options.rounds}`)
  process.exit(2)
}

// One `roomcast bench`, and what it found.
async function bench(owner, redis, flags) {
  const bench = start(owner, process.env.ROOMCAST_BIN, ['bench', '--json', ...flags.map(String)], {
    env: { REDISHOST: redis.address },
  })
  const end = performance.now() + PATIENCE
  while (bench.code === undefined && performance.now() < end) await pause(LOOK_EVERY)
  await bench.kill()
  if (!bench.stdout) throw new Error(bench.stderr.trim().split('\n').at(-1) || 'not over in time')
  return JSON.parse(bench.stdout)
}

// Puts one server under one row's load, with a Redis of its own; `undefined` if it cannot do that
// at all. All that was started has ended when this returns.
async function measure(everybody, row, name, files) {
  const owner = new Owner()
  everybody.after(() => owner.end())
  try {
    const space = row.vanishing && await startSpace(owner)
    const redis = await startRedis(owner)
    const server = await servers[name](owner, redis, row.tls && name !== 'limit' ? files : undefined, row.settings)
    if (row.posts && !await takesPosts(server)) return undefined
    const flags = [
      ...row.flags, ...server.flags, ...row.posts ? server.post : [],
      '--publishers', row.publishers ?? 1, '--pid', server.pids.join(),
    ]
    const calm = await bench(owner, redis, flags)
    if (row.against) return { ...await bench(owner, redis, [...flags, ...row.against]), calm }
    if (!row.vanishing) return calm
    const vanish = await startVanishing(space, server, row.vanishing, TOGETHER)
    let over = false
    const [found, vanished] = await Promise.all([
      bench(owner, redis, [...flags, ...TOGETHER]).finally(() => { over = true }),
      vanish(() => over),
    ])
    return { ...found, vanished, calm }
  } finally {
    await owner.end()
  }
}

async function takesPosts({ flags, post }) {
  const given = [...flags, ...post]
  const url = given[given.indexOf('--publish') + 1].replace('{room}', 'nobody')
  const answer = await fetch(url, { method: 'POST', body: 'x', headers: { authorization: `Bearer ${servers.TOKEN}` } })
  return answer.ok
}

const sorted = values => values.toSorted((one, other) => one - other)
const median = values => sorted(values)[Math.floor(values.length / 2)]

// The median, the least and the greatest, and how many times the limit that is.
function cell([, of, digits, alone], found, limit) {
  if (!found?.length) return '–'
  const shown = value => (value >= 10_000 ? grouped(Math.round(value)) : value.toFixed(digits))
  const values = found.map(of)
  const spread = values.length > 1 ? ` (${shown(Math.min(...values))}–${shown(Math.max(...values))})` : ''
  const times = limit?.length && !alone ? median(values) / median(limit.map(of)) : NaN
  return `${shown(median(values))}${spread}${Number.isFinite(times) ? ` ${times.toFixed(2)}×` : ''}`
}

// Ratios are to the limit of the same load; with TLS, to the one without.
function lines(row, results) {
  const found = results[row.key]
  const wrong = Object.keys(NAMES).map(name => {
    const sum = key => (found[name] ?? []).reduce((sum, one) => sum + one[key], 0)
    const parts = ['lost', 'doubled', 'reordered', 'wrong', 'closed'].filter(key => sum(key) > 0)
    return parts.map(key => `${grouped(sum(key))} ${key}`).join(', ')
  })
  return [
    [`**${row.title}**`, ...Object.keys(NAMES).map(() => '')],
    ...row.figures.map(figure => [
      figure[0],
      ...Object.keys(NAMES).map(name => cell(figure, found[name], name !== 'limit' && found.limit)),
    ]),
    ...wrong.some(Boolean) && !row.losing ? [['not as it should be', ...wrong.map(text => text || '–')]] : [],
  ]
}

const results = Object.fromEntries(chosen.map(row => [row.key, {}]))
const skipped = new Set()
const began = performance.now()
await owning(async owner => {
  const folder = await temporaryFolder(owner)
  const files = { cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem') }
  const made = await run(owner, 'openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1',
    '-keyout', files.key, '-out', files.cert,
  ])
  if (made.code !== 0) throw new Error(`openssl: ${made.stderr}`)
  for (let round = 1; round <= rounds; round++) {
    for (const row of chosen) {
      if (row.once && round > 1) continue
      for (const name of Object.keys(NAMES).filter(name => row.servers.includes(name === 'before' ? 'roomcast' : name))) {
        const elapsed = performance.now() - began
        if (elapsed > BUDGET) {
          skipped.add(`${row.key}, round ${round}: out of time`)
          continue
        }
        console.error(`${Math.round(elapsed / 1000)} s  round ${round} of ${rounds}: ${row.key}, ${NAMES[name]}`)
        try {
          const found = await measure(owner, row, name, files)
          if (found) (results[row.key][name] ??= []).push(found)
          else skipped.add(`${row.key}: ${NAMES[name]} takes no POSTs`)
        } catch (error) {
          skipped.add(`${row.key}: ${NAMES[name]}: ${error.message}`)
        }
      }
    }
  }
})

const text = `Measured on ${machine()}; ${rounds === 1 ? 'one round' : `${rounds} rounds`}.

${table(['', ...Object.values(NAMES)], chosen.flatMap(row => lines(row, results)))}
${[...skipped].map(line => `\nNot measured: ${line}.`).join('')}`.trimEnd()
console.log(text)
for (const line of skipped) console.error(`NOT MEASURED: ${line}`)
if (options.write) await keep('load', text)
