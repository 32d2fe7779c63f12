// What a server takes: memory and open files as the kernel counts them, and its own gauges.

import { readFile, readdir, readlink, realpath } from 'node:fs/promises'

export const GAUGES = {
  connections: 'roomcast_connections',
  polling: 'roomcast_sessions{transport="polling"}',
  websocket: 'roomcast_sessions{transport="websocket"}',
  sockets: 'roomcast_sockets',
  members: 'roomcast_members',
  rooms: 'roomcast_rooms',
  historyBytes: 'roomcast_history_bytes',
  queue: 'roomcast_queue_messages',
}

const COUNTERS = {
  messages: 'roomcast_messages_total',
  deliveries: 'roomcast_deliveries_total',
  reconnects: 'roomcast_source_reconnects_total',
  slow: 'roomcast_closes_total{reason="slow"}',
  queueFull: 'roomcast_closes_total{reason="queue_full"}',
}

// The one child of ours that runs this program.
export async function childOf(program) {
  const wanted = await realpath(program)
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    try {
      const parent = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ').at(-1).split(' ')[1]
      if (Number(parent) === process.pid && await readlink(`/proc/${pid}/exe`) === wanted) return pid
    } catch {} // it has ended meanwhile, or is not ours to look at
  }
  throw new Error(`no ${program} runs here`)
}

// One look at it all; megabytes are 2^20 bytes.
export async function sample(pid, admin) {
  const [status, files, text] = await Promise.all([
    readFile(`/proc/${pid}/status`, 'utf8'),
    readdir(`/proc/${pid}/fd`),
    fetch(`http://${admin}/metrics`).then(answer => answer.text()),
  ])
  const metric = name => Number(text.split('\n').find(line => line.startsWith(`${name} `)).slice(name.length))
  const metrics = Object.entries({ ...GAUGES, ...COUNTERS }).map(([key, name]) => [key, metric(name)])
  return {
    rss: Number(/^VmRSS:\s+(\d+) kB/m.exec(status)[1]) / 1024,
    fds: files.length,
    ...Object.fromEntries(metrics),
  }
}
