// The peer: what one would write with Socket.IO on Node to show Redis' channels as rooms, with its
// connection state recovery. `node socketio.mjs REDIS_PORT` prints the port it serves at.

import { createServer } from 'node:http'
import { Redis } from 'ioredis'
import { Server } from 'socket.io'

const RECOVERY = { maxDisconnectionDuration: 120_000, skipMiddlewares: true } // ms

const http = createServer()
const io = new Server(http, { connectionStateRecovery: RECOVERY })
io.on('connection', socket => {
  socket.on('channel', (room, joined) => {
    socket.join(room)
    joined()
  })
})

const redis = new Redis({ host: '127.0.0.1', port: Number(process.argv[2]) })
redis.on('pmessage', (_, channel, payload) => io.to(channel).emit('message', payload))
redis.on('error', () => {}) // it connects again by itself
await redis.psubscribe('*')

http.listen(0, '127.0.0.1', () => console.log(http.address().port))
