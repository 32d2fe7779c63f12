// Hostile clients, in a process of their own: `attackers.mjs NAME PORT`. They go on until they are
// killed. The first line on stdout says that the attack is under way.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'

const [, , name, port] = process.argv
const POLLING = '/socket.io/?EIO=4&transport=polling'
const HOST = 'host: localhost\r\n'

// A connection. What breaks is replaced by the attack itself, so errors are ignored.
async function dial() {
  const socket = connect(Number(port), '127.0.0.1')
  socket.on('error', () => {})
  await Promise.race([once(socket, 'connect'), once(socket, 'close')])
  return socket
}

const isOpen = socket => !socket.destroyed && socket.writable

// A frame of a client, whose mask is 0.
function frame(text, first = 0x81) {
  const payload = Buffer.from(text)
  const { length } = payload
  const head = length < 126
    ? [first, 0x80 | length]
    : length < 65536
      ? [first, 0xfe, length >> 8, length & 255]
      : [first, 0xff, 0, 0, 0, 0, length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255]
  return Buffer.concat([Buffer.from(head), Buffer.alloc(4), payload])
}

// A socket in the namespace, whose answers are read and dropped.
async function enter() {
  const socket = await dial()
  socket.write(`GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n${HOST}connection: upgrade\r\n`
    + `upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ${randomBytes(16).toString('base64')}\r\n\r\n`)
  socket.write(frame('40'))
  socket.resume()
  return socket
}

async function sid() {
  const answer = await fetch(`http://127.0.0.1:${port}${POLLING}`)
  return JSON.parse((await answer.text()).slice(1)).sid
}

// Keeps `count` of what `make` makes open.
async function keep(count, make) {
  const kept = await Promise.all(Array.from({ length: count }, make))
  console.log('under way')
  for (;;) {
    await pause(20)
    const gone = kept.findIndex(socket => !isOpen(socket))
    if (gone >= 0) kept[gone] = await make()
  }
}

// Writes again and again, as fast as the server reads.
async function flood(count, make, bytes) {
  const sockets = await Promise.all(Array.from({ length: count }, make))
  console.log('under way')
  await Promise.all(sockets.map(async (socket, index) => {
    for (;;) {
      if (!isOpen(socket)) socket = sockets[index] = await make()
      if (!socket.write(bytes)) await Promise.race([once(socket, 'drain'), once(socket, 'close')])
      await pause(0)
    }
  }))
}

const attacks = {
  bodies: () => keep(300, async () => {
    const socket = await dial()
    socket.write(`POST ${POLLING}&sid=${await sid()} HTTP/1.1\r\n${HOST}content-length: 1048576\r\n\r\n`)
    socket.write(Buffer.alloc(1_048_000, '4'))
    return socket
  }),
  messages: () => keep(800, async () => {
    const socket = await enter()
    socket.write(frame('4'.repeat(131_000), 0x01))
    return socket
  }),
  rooms: () => keep(250, async () => {
    const [socket, name] = [await enter(), randomBytes(60).toString('hex')]
    for (let room = 0; room < 256; room++) socket.write(frame(`42["channel","${name}-${room}"]`))
    return socket
  }),
  channels: () => flood(4, enter, frame(`42["channels","*[${'~'.repeat(250)}]"]`)),
  connects: () => flood(4, enter, Buffer.concat(Array(1000).fill(frame('40')))),
  joins: () => flood(4, enter, Buffer.concat([frame('420["channel","x",{"last":100}]'), frame('421["leave","x"]')])),
  streams: () => flood(8, async () => {
    const socket = await dial()
    socket.resume()
    return socket
  }, `HEAD /events/hot?last=100 HTTP/1.1\r\n${HOST}\r\n`.repeat(20)),
  replays: () => keep(200, async () => {
    const socket = await dial()
    socket.write(`GET /events/hot?last=100 HTTP/1.1\r\n${HOST}\r\n`)
    socket.once('data', () => socket.destroy())
    return socket
  }),
  histories: () => keep(200, async () => {
    const socket = await enter()
    const again = setInterval(() => socket.write(frame('420["channel","long",{"last":10000,"meta":true}]')), 1500)
    socket.on('close', () => clearInterval(again))
    return socket
  }),
  sessions: () => flood(2, async () => {
    const socket = await dial()
    socket.resume()
    return socket
  }, `GET ${POLLING} HTTP/1.1\r\n${HOST}\r\n`.repeat(20)),
}

await attacks[name]()
