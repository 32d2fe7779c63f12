// assets/roomcast.js in situations that a real server reaches by chance alone: here the answers,
// messages and gaps come in a given order.

import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import test from 'node:test'
import { watcher } from '../../assets/roomcast.js'

const ROOM = 'room'
const EPOCH = 'a'

// A socket of socket.io-client whose other end is the test.
class ScriptedSocket extends EventEmitter {
  connected = true
  requests = []

  timeout() {
    return { emit: (event, room, options, answer) => this.requests.push({ options, answer }) }
  }

  // Answers the oldest request.
  answer({ offset, replayed = 0, recovered, epoch = EPOCH }) {
    this.requests.shift().answer(null, { ok: true, room: ROOM, epoch, offset, replayed, recovered })
  }

  message(offset, prev = offset - 1, epoch = EPOCH) {
    this.emit('message', `${offset}`, { room: ROOM, epoch, offset, prev, at: offset })
  }

  messages(from, to) {
    for (let offset = from; offset <= to; offset++) this.message(offset)
  }

  gap(reason, more) {
    this.emit('gap', { room: ROOM, from: 0, to: 1, reason, ...more })
  }

  reconnect() {
    this.connected = false
    this.requests = []
    this.emit('disconnect')
    this.connected = true
    this.emit('connect')
  }
}

// Watches, and records the numbers that come, `?` for a gap and `!` for one that begins anew.
function watching(watch, last) {
  const shown = []
  watch(ROOM, payload => shown.push(Number(payload)), {
    last,
    onGap: ({ replace }) => shown.push(replace ? '!' : '?'),
  })
  return shown
}

function begin(last) {
  const socket = new ScriptedSocket()
  const watch = watcher(socket)
  return { socket, watch, first: watching(watch, last) }
}

test('a replay is handed on as it comes, and goes on after a break', () => {
  const { socket, first } = begin(100)
  socket.answer({ offset: 4, replayed: 4 })
  socket.messages(1, 2)
  assert.deepEqual(first, [1, 2])
  socket.reconnect()
  assert.deepEqual(socket.requests[0].options.since, { epoch: EPOCH, offset: 2 })
  socket.answer({ offset: 5, replayed: 3, recovered: true })
  socket.messages(3, 7)
  assert.deepEqual(first, [1, 2, 3, 4, 5, 6, 7])
})

test('what is forgotten under a replay is a gap, and the replay is complete without it', () => {
  const { socket, watch, first } = begin(100)
  socket.answer({ offset: 9, replayed: 9 })
  socket.messages(1, 2)
  socket.gap('forgotten', { omitted: 7 })
  const second = watching(watch, 3)
  assert.equal(socket.requests.length, 1, 'it has not to wait for the next message')
  socket.answer({ offset: 9, replayed: 3 })
  socket.messages(7, 7)
  socket.gap('forgotten', { omitted: 2 })
  socket.messages(10, 10)
  assert.deepEqual(first, [1, 2, '?', 10])
  assert.deepEqual(second, [7, '?', 10])
  assert.equal(socket.requests.length, 0)
})

test('watches that want different parts of the past share a replay', () => {
  const { socket, watch, first } = begin(0)
  socket.answer({ offset: 9 })
  const [second, third] = [watching(watch, 4), watching(watch, 2)]
  socket.answer({ offset: 10, replayed: 4 })
  socket.messages(7, 10)
  assert.equal(socket.requests[0].options.last, 2)
  socket.answer({ offset: 10, replayed: 2 })
  socket.messages(9, 12)
  assert.deepEqual([first, second, third], [[10, 11, 12], [7, 8, 9, 10, 11, 12], [9, 10, 11, 12]])
})

test('a watch whose first replay breaks off begins anew, and those that were further go on', () => {
  const { socket, watch, first } = begin(0)
  socket.answer({ offset: 9 })
  const second = watching(watch, 4)
  socket.answer({ offset: 9, replayed: 4 })
  socket.messages(6, 7)
  socket.reconnect()
  socket.answer({ offset: 11, replayed: 2, recovered: true })
  socket.messages(10, 11)
  socket.answer({ offset: 11, replayed: 4 })
  socket.messages(8, 12)
  assert.deepEqual(first, [10, 11, 12])
  assert.deepEqual(second, [6, 7, '!', 8, 9, 10, 11, 12])
})

test('a hole under the replay of another watch is filled, and nothing comes twice', () => {
  const { socket, watch, first } = begin(0)
  socket.answer({ offset: 3 })
  const second = watching(watch, 2)
  // What was on its way to the first watch at that moment does not come.
  socket.answer({ offset: 9, replayed: 2 })
  socket.messages(8, 9)
  assert.deepEqual(socket.requests[0].options.since, { epoch: EPOCH, offset: 3 })
  socket.answer({ offset: 10, replayed: 7, recovered: true })
  socket.messages(4, 11)
  assert.deepEqual(first, [4, 5, 6, 7, 8, 9, 10, 11])
  assert.deepEqual(second, [8, 9, 10, 11])
})

test('a history of another epoch replaces what is shown when its first message is there', () => {
  const { socket, first } = begin(2)
  socket.answer({ offset: 2, replayed: 2 })
  socket.messages(1, 2)
  socket.reconnect()
  socket.answer({ epoch: 'b', offset: 7, replayed: 2, recovered: false })
  socket.gap('unknown_position')
  assert.deepEqual(first, [1, 2])
  socket.message(6, 5, 'b')
  assert.deepEqual(first, [1, 2, '!', 6])
  socket.message(7, 6, 'b')
  socket.reconnect()
  socket.answer({ epoch: 'c', offset: 0, recovered: false })
  socket.gap('unknown_position')
  socket.message(1, 0, 'c')
  assert.deepEqual(first, [1, 2, '!', 6, 7, '?', 1])
})

test('what is missing before a position that is known is a gap, told once', () => {
  const { socket, first } = begin(0)
  socket.answer({ offset: 2 })
  socket.reconnect()
  socket.answer({ offset: 9, replayed: 2, recovered: false })
  socket.gap('forgotten')
  socket.messages(8, 9)
  socket.message(12, 9)
  socket.gap('queue_full')
  socket.message(15, 14)
  assert.deepEqual(first, ['?', 8, 9, 12, '?', 15])
  assert.equal(socket.requests.length, 0)
})

test('a watch may close the connection at any of its calls, and all go on afterwards', () => {
  for (const hook of ['onJoin', 'onMessage', 'onGap']) {
    const socket = new ScriptedSocket()
    const shown = []
    let closes = false
    const close = name => {
      if (name !== hook || !closes) return
      closes = false
      socket.reconnect()
    }
    watcher(socket)(ROOM, payload => (shown.push(Number(payload)), close('onMessage')), {
      last: 9,
      onJoin: () => close('onJoin'),
      onGap: () => close('onGap'),
    })
    socket.answer({ offset: 2 })
    socket.reconnect()
    closes = true
    socket.answer({ offset: 5, replayed: 2, recovered: false })
    if (closes) socket.gap('forgotten')
    if (closes) socket.messages(4, 4)
    assert.equal(closes, false, hook)
    assert.equal(socket.requests.length, 1, `${hook}: it has asked again`)
    socket.answer({ offset: 6, replayed: hook === 'onMessage' ? 2 : 4, recovered: true })
    socket.messages(hook === 'onMessage' ? 5 : 3, 7)
    assert.equal(shown.at(-1), 7, hook)
  }
})
