// The servers that benchmarks compare, each on a free port of loopback. Each starts with
// `(owner, redis, files)`; `files`, a certificate and its key, are for TLS. What it returns: the
// flags of `roomcast bench` that lead to it, and its processes. Roomcast takes settings, and returns
// its port, and where its metrics are.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort, start, startRoomcast, temporaryFolder, until } from '../../tests/node/support.mjs'

const here = file => fileURLToPath(new URL(file, import.meta.url))
const ROOT = here('../..')
const NCHAN = '/usr/lib/nginx/modules/ngx_nchan_module.so'
export const TOKEN = 'of a benchmark'

// What a program prints first: the port that it serves at.
async function printedPort(server, name) {
  return until(() => {
    if (server.code !== undefined) throw new Error(`${name} ended: ${server.stderr}`)
    return /^(\d+)\n/.exec(server.stdout)?.[1]
  }, `${name} serves`)
}

export async function limit(owner, redis) {
  const server = start(owner, join(ROOT, 'target/limit'), [`${redis.port}`])
  const port = await printedPort(server, 'limit')
  return { pids: [server.pid], flags: ['--protocol', 'websocket', `ws://127.0.0.1:${port}/{room}`] }
}

export async function roomcast(owner, redis, files, more, binary) {
  const tls = files && { TLS_CERT: files.cert, TLS_KEY: files.key, HTTPS_ADDR: '127.0.0.1:0' }
  const settings = { REDISHOST: redis.address, PUBLISH_TOKEN: TOKEN, ...tls, ...more }
  const server = await startRoomcast(owner, settings, [], binary)
  await server.subscribed()
  const post = ['--publish', new URL('/publish/', server.page) + '{room}', '--bearer', TOKEN]
  const { pid, page, admin } = server
  return { pids: [pid], flags: ['--insecure', page], post, port: new URL(page).port, admin }
}

// Another build of Roomcast, to compare with.
export const before = (owner, redis, files, more) => roomcast(owner, redis, files, more, process.env.AGAINST)

export async function socketio(owner, redis, files) {
  const server = start(owner, process.execPath, [
    here('socketio.mjs'), `${redis.port}`, ...files ? [files.cert, files.key] : [],
  ])
  const port = await printedPort(server, 'socketio.mjs')
  const url = `${files ? 'https' : 'http'}://127.0.0.1:${port}`
  return { pids: [server.pid], flags: ['--insecure', url] }
}

// One worker: with two, each delivery costs more, and memory that both share is counted twice.
export async function nchan(owner, redis, files) {
  const folder = await temporaryFolder(owner)
  const [port, securePort] = [await freePort(), await freePort()]
  const file = join(folder, 'nginx.conf')
  const tls = files && `
        listen 127.0.0.1:${securePort} backlog=4096 ssl;
        ssl_certificate ${files.cert};
        ssl_certificate_key ${files.key};`
  await writeFile(file, `
    load_module ${NCHAN};
    daemon off;
    user root; # as who started it: the folder is theirs alone
    worker_processes 1;
    worker_rlimit_nofile 20000;
    pid ${folder}/pid;
    error_log stderr error;
    events { worker_connections 19000; }
    http {
      access_log off;
      keepalive_requests 1000000000; # else a publisher is cut off after 1,000
      keepalive_timeout 1h;
      nchan_shared_memory_size 512M;
      server {
        listen 127.0.0.1:${port} backlog=4096;${tls ?? ''}
        location ~ ^/publish/(.+)$ {
          nchan_publisher http;
          nchan_channel_id $1;
          nchan_message_buffer_length 2000; # a burst has 1,000, and none may be lost
        }
        location ~ ^/watch/(.+)$ {
          nchan_subscriber websocket;
          nchan_channel_id $1;
          nchan_subscriber_first_message newest;
        }
      }
    }
  `)
  const server = start(owner, 'nginx', ['-p', folder, '-c', file, '-e', 'stderr'])
  owner.after(() => (server.signal('SIGTERM'), server.ended())) // killed, it would leave its worker
  const children = `/proc/${server.pid}/task/${server.pid}/children`
  const worker = await until(async () => {
    if (server.code !== undefined) throw new Error(`nginx ended: ${server.stderr}`)
    return (await readFile(children, 'utf8')).split(' ').filter(Boolean).map(Number)[0]
  }, 'nginx has a worker')
  const url = tls ? `wss://127.0.0.1:${securePort}` : `ws://127.0.0.1:${port}`
  const post = `http://127.0.0.1:${port}/publish/{room}`
  return {
    pids: [server.pid, worker],
    flags: ['--insecure', '--protocol', 'websocket', `${url}/watch/{room}`, '--publish', post],
    post: [],
  }
}
