// Viewers: stock clients of every major version, which record all events.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe } from 'node:test'
import client1 from 'client1'
import client2 from 'client2'
import client3 from 'client3'
import client4 from 'client4'
import { until } from './support.mjs'

const CLIENTS = { 1: client1, 2: client2, 3: client3, 4: client4 }
const TRANSPORTS = [['polling'], ['websocket'], ['polling', 'websocket']]

// Every client over every transport.
export const KINDS = Object.keys(CLIENTS)
  .flatMap(version => TRANSPORTS.map(transports => ({ version, transports })))

// Short delays before reconnecting keep the tests short; all else is the default of a stock client.
const OPTIONS = { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200 }

class Viewer {
  messages = [] // the arguments of each
  hellos = []
  refusals = [] // what came as event `error`
  disconnects = [] // their reasons

  constructor(url, { version, transports }, options) {
    this.transport = transports.at(-1)
    this.socket = CLIENTS[version](url, { ...OPTIONS, transports, ...options })
    this.socket.on('message', (...args) => this.messages.push(args))
    this.socket.on('hello', (...args) => this.hellos.push(args))
    this.socket.on('error', refusal => this.refusals.push(refusal))
    this.socket.on('disconnect', reason => this.disconnects.push(reason))
  }

  get connected() {
    return this.socket.connected && this.socket.io.engine.transport.name === this.transport
  }

  // Emits an event and waits for its acknowledgement.
  async ask(...request) {
    let answer
    this.socket.emit(...request, ack => { answer = ack })
    return until(() => answer, `${request} is acknowledged`)
  }

  async join(room, ...options) {
    const ack = await this.ask('channel', room, ...options)
    assert.equal(ack.ok, true, JSON.stringify(ack))
    return ack
  }

  // Waits for this many messages, and returns all so far.
  async heard(count) {
    await until(() => this.messages.length >= count, `there are ${count} messages`)
    return this.messages
  }
}

// Begins to connect. The client buffers what is emitted before it is connected.
export function open(owner, url, kind = { version: 4, transports: ['websocket'] }, options = {}) {
  const viewer = new Viewer(url, kind, options)
  owner.after(() => viewer.socket.close())
  return viewer
}

// Connects, and upgrades if there are two transports.
export async function connect(owner, url, kind, options) {
  const viewer = open(owner, url, kind, options)
  await until(() => viewer.connected, `it is connected by ${viewer.transport}`)
  return viewer
}

// Runs the same tests for every kind of viewer.
export function everyClient(promises) {
  for (const kind of KINDS) {
    describe(`client ${kind.version} by ${kind.transports.join(', then ')}`, () => {
      promises((owner, url) => connect(owner, url, kind))
    })
  }
}

// A room that no other test is in.
export const newRoom = () => `room:${randomUUID()}`
