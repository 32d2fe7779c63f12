// What `benches/run load` measures: a row is a load, who is put under it, and what is told of it.

const PEERS = ['limit', 'roomcast', 'socketio', 'nchan']

// What it is called, where it is found, and its digits; `alone` if the limit's would say nothing.
const cpu = ['CPU per delivery, µs', found => found.server.cpu_us_per_delivery, 2]
const p50 = ['latency p50, ms', found => found.latency_ms.p50, 1]
const p99 = ['latency p99, ms', found => found.latency_ms.p99, 1]
const deliveries = ['deliveries a second, millions', found => found.deliveries_per_second / 1e6, 3]
const memory = ['RSS a connection, kB', found => found.server.rss_per_connection / 1000, 1, 'alone']
const growth = ['RSS after ÷ before', found => found.server.rss_after / found.server.rss_idle, 2, 'alone']
const connects = ['connects a second', found => found.connects_per_second, 0]
const connect = ['CPU a connect, handshake and join, µs', found => found.server.cpu_us_per_connect, 0, 'alone']
const resting = ['idle CPU a connection, µs a second', found => found.server.cpu_us_per_connection_second, 1, 'alone']
const publishes = ['publishes a second', found => found.published_per_second, 0]
const cut = ['viewers cut off that kept up', found => found.closed, 0]
const hindered = ['hindered viewers cut off, of 2', found => found.hindered.closed, 0]
const change = ['change of the others’ p99, %', found => 100 * (found.latency_ms.p99 / found.calm.latency_ms.p99 - 1), 0]
const ended = ['vanished viewers cut off, of 100', found => found.vanished.cut, 0]
const after = ['the last of them after, s', found => found.vanished.seconds, 1]
const waiting = ['what waited for them at most, MB', found => found.vanished.bytes / 1e6, 1]

const steady = (viewers, rate, brief) => ({
  key: `steady-${viewers}`,
  title: `${viewers.toLocaleString('en')} viewers of a room, ${rate} messages/s`,
  servers: PEERS,
  figures: [cpu, p50, p99],
  flags: ['--viewers', viewers, '--rate', rate, '--for', brief ? '2s' : '8s'],
})

const idle = (key, title, servers, brief, more) => ({
  title, servers, key, figures: [memory, connects, connect],
  flags: ['--viewers', brief ? 1000 : 3000, '--hold', brief ? '1s' : '3s', ...more.flags ?? []],
  tls: more.tls,
})

// Those of a whole run, or of a brief one, which proves that all of it works.
export const rows = brief => [
  steady(200, 200, brief),
  steady(1000, 50, brief),
  steady(10_000, 4, brief),
  {
    key: 'burst',
    title: '1,000 viewers of a room, 1,000 messages flat out',
    servers: PEERS,
    figures: [deliveries, growth],
    flags: ['--viewers', 1000, '--rate', 'max', '--count', brief ? 200 : 1000],
  },
  {
    key: 'rooms',
    title: '5,000 rooms of 2 viewers, 10,000 messages/s',
    servers: PEERS,
    figures: [cpu, p50, p99],
    flags: ['--viewers', 10_000, '--rooms', 5000, '--rate', 10_000, '--for', brief ? '1s' : '5s'],
    publishers: 32,
  },
  {
    ...steady(200, 200, brief),
    key: 'tls',
    title: '200 viewers of a room, 200 messages/s, over TLS (the limit without)',
    tls: true,
  },
  idle('idle', 'idle, WebSocket at once', PEERS, brief, {}),
  idle('idle-upgraded', 'idle, upgraded from polling', ['roomcast', 'socketio'], brief, { flags: ['--upgrade'] }),
  idle('idle-tls', 'idle, over TLS', ['roomcast', 'socketio', 'nchan'], brief, { tls: true }),
  {
    key: 'resting',
    title: 'idle for longer than a heartbeat',
    servers: ['roomcast', 'socketio', 'nchan'],
    figures: [resting],
    flags: ['--viewers', brief ? 1000 : 3000, '--hold', brief ? '2s' : '60s'],
    once: true,
  },
  {
    key: 'http',
    title: '64 rooms of 1 viewer, POSTs flat out over 64 connections',
    servers: ['roomcast', 'nchan'],
    figures: [publishes],
    flags: ['--viewers', 64, '--rooms', 64, '--rate', 'max', '--for', brief ? '2s' : '5s'],
    publishers: 64,
    posts: true,
  },
  {
    key: 'saturation',
    title: `1,000 viewers of a room, ${brief ? 5 : 60} s of more messages than can be delivered`,
    servers: ['roomcast'],
    once: true,
    losing: true,
    figures: [deliveries, cut],
    flags: ['--viewers', 1000, '--rate', 20_000, '--for', brief ? '5s' : '60s'],
  },
  {
    key: 'slow',
    title: '1,000 viewers of a room, 50 messages/s of 1 kB, one stalled and one at 56 kbit/s',
    servers: ['roomcast'],
    figures: [p99, change, hindered],
    flags: ['--viewers', 1000, '--rate', 50, '--size', 1024, '--for', brief ? '4s' : '20s'],
    against: ['--stalled', 1, '--slow', 1],
  },
  {
    key: 'vanished',
    title: '1,000 viewers of a room, 50 messages/s of 1 kB, 100 more that vanish without a FIN',
    servers: ['roomcast'],
    figures: [p99, change, ended, after, waiting],
    flags: ['--viewers', 1000, '--rate', 50, '--size', 1024, '--for', brief ? '7s' : '20s'],
    // They come from elsewhere; and briefly, there is no time for ten seconds.
    settings: { HTTP_ADDR: '0.0.0.0:0', ...brief && { SLOW_AFTER: '2s' } },
    vanishing: 100,
  },
]
