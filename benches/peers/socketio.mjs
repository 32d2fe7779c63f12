// The peer: what one would write with Socket.IO on Node to show Redis' channels as rooms.
// `node socketio.mjs REDIS_PORT [recovery] [CERT KEY]` prints the port it serves at; with
// `recovery`, it has connection state recovery, and with two files it serves over TLS.

import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import { Redis } from 'ioredis'
import { Server } from 'socket.io'

const RECOVERY = { maxDisconnectionDuration: 120_000, skipMiddlewares: true } // ms

const [port, ...rest] = process.argv.slice(2)
const recovery = rest[0] === 'recovery' && rest.shift()
const [cert, key] = rest.map(file => readFileSync(file))
const http = cert ? createSecureServer({ cert, key }) : createServer()
const io = new Server(http, recovery ? { connectionStateRecovery: RECOVERY } : {})
io.on('connection', socket => {
  socket.on('channel', (room, joined) => {
    socket.join(room)
    joined()
  })
})

const redis = new Redis({ host: '127.0.0.1', port: Number(port) })
redis.on('pmessage', (_, channel, payload) => io.to(channel).emit('message', payload))
redis.on('error', () => {}) // it connects again by itself
await redis.psubscribe('*')

http.listen(0, '127.0.0.1', () => console.log(http.address().port))
