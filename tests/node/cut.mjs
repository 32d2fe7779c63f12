// The cut test: numbered messages, viewers whose connections break at random again and again, and
// counts of what each of them received. It supports Roomcast and Socket.IO on Node, because
// benches/ uses it too.

import { Agent } from 'node:http'
import client4 from 'client4'
import { until } from './support.mjs'


// A random number generator (mulberry32): the same seed reproduces a failure.
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

// A client's TCP connection that the test can break or stop reading.
class Line extends Agent {
  createConnection(...args) {
    this.socket = super.createConnection(...args)
    return this.socket
  }

  cut() {
    this.socket.resetAndDestroy()
  }

  stopReading() {
    this.socket.pause()
  }
}

// A stock client on its own line.
export function clientOnLine(url, options) {
  const line = new Line()
  const socket = client4(url, { ...options, forceNew: true, transports: ['websocket'], agent: line })
  return { line, socket }
}

// Counts the numbers received: each should come once and in order, from 0.
class Ledger {
  next = 0
  once = 0
  doubled = 0
  late = 0
  missing = new Set()

  take(number) {
    if (number >= this.next) {
      while (this.next < number) this.missing.add(this.next++)
      this.next++
      this.once++
    } else if (this.missing.delete(number)) {
      this.once++
      this.late++
    } else {
      this.doubled++
    }
  }
}

class Viewer {
  ledger = new Ledger()
  cuts = 0
  comebacks = []
  told = false
  joined = false

  constructor(url, room, away) {
    this.room = room
    const delays = { reconnectionDelay: away, reconnectionDelayMax: away, randomizationFactor: 0 }
    Object.assign(this, clientOnLine(url, delays))
    this.socket.on('connect', () => this.enter())
    this.socket.on('disconnect', () => {
      this.joined = false
      this.left = this.ledger.next // noted here: Socket.IO replays missed messages before `connect`
    })
  }

  cut() {
    if (!this.joined) return
    this.joined = false
    this.cuts++
    this.line.cut()
  }

  // Notes that the viewer is in the room again, and whether the server claims a full recovery.
  entered(recovered) {
    if (this.left !== undefined) {
      this.comebacks.push({ recovered, left: this.left, at: performance.now() })
      if (!recovered) this.told = true
    }
    this.joined = true
  }

  take(payload) {
    this.ledger.take(Number(payload))
    this.onNumber?.(Number(payload))
  }
}

// Joins again with its last position.
export class RoomcastViewer extends Viewer {
  constructor(...args) {
    super(...args)
    this.socket.on('gap', () => { this.told = true })
    this.socket.on('message', (payload, place) => {
      // If recovery was denied, the replay may begin before this position.
      if (place.epoch === this.past?.epoch && place.offset <= this.past.offset) return
      this.take(payload)
      this.seen = place
    })
  }

  enter() {
    const since = this.seen && { epoch: this.seen.epoch, offset: this.seen.offset }
    const options = { meta: true, since }
    this.socket.emit('channel', this.room, options, ({ epoch, offset, recovered }) => {
      this.past = recovered ? undefined : since
      this.seen ??= { epoch, offset }
      this.entered(recovered)
    })
  }
}

// A viewer of Socket.IO on Node with connection state recovery, which restores the rooms too.
export class SocketioViewer extends Viewer {
  constructor(...args) {
    super(...args)
    this.socket.on('message', payload => this.take(payload))
  }

  enter() {
    if (this.socket.recovered) this.entered(true)
    else this.socket.emit('channel', this.room, () => this.entered(false))
  }
}

// Runs the test, and returns the counts. With `kill`, Redis closes the subscription half-way.
// `up`: the least and the most seconds that a viewer is in the room between two cuts; `away`: the
// seconds from a cut to the next attempt to connect.
export async function cutTest(owner, { View, url, redis, seed, kill, ...load }) {
  const { seconds, rate, up: [least, most] } = load
  const away = 1000 * (load.away ?? 2)
  const random = seeded(seed)
  const viewers = Array.from({ length: load.viewers }, () => new View(url, 'cut', away))
  const firstHeard = [] // when the first viewer received each number
  for (const viewer of viewers) {
    owner.after(() => viewer.socket.close())
    viewer.onNumber = number => { firstHeard[number] ??= performance.now() }
  }
  await until(() => viewers.every(viewer => viewer.joined), 'all viewers are in the room')

  const receivers = [] // subscribers that each number reached, as Redis counts them
  const publish = () => receivers.push(redis.publish('cut', `${receivers.length}`))
  const timers = new Set()
  const after = (ms, then) => {
    const timer = setTimeout(() => (timers.delete(timer), then()), ms)
    timers.add(timer)
  }
  owner.after(() => timers.forEach(clearTimeout))

  const cutLater = (viewer, pause) => after(pause + 1000 * (least + random() * (most - least)), () => {
    viewer.cut()
    cutLater(viewer, away)
  })
  for (const viewer of viewers) cutLater(viewer, 0)

  // Publish by the clock, so that a busy moment does not reduce their number.
  await new Promise((resolve, reject) => {
    const begin = performance.now()
    let killed = !kill
    const tick = async () => {
      const due = Math.min((performance.now() - begin) / 1000, seconds)
      // Await everything published before, so that the counts of receivers are right.
      if (!killed && due >= seconds / 2) {
        killed = true
        await Promise.all(receivers)
        await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
      }
      while (receivers.length < due * rate) publish()
      if (due === seconds) return resolve()
      after(1000 / rate, () => tick().catch(reject))
    }
    tick().catch(reject)
  })
  timers.forEach(clearTimeout)

  // Rooms keep the order: a viewer that has the last number gets nothing more.
  await until(() => viewers.every(viewer => viewer.joined), 'all viewers are back')
  publish()
  await until(() => viewers.every(({ ledger }) => ledger.next === receivers.length), 'all have the last number')
  return outcome(viewers, await Promise.all(receivers), firstHeard)
}

function outcome(viewers, receivers, firstHeard) {
  const sum = count => viewers.reduce((total, viewer) => total + count(viewer), 0)
  const outage = new Set(receivers.flatMap((count, number) => (count === 0 ? [number] : [])))
  const over = firstHeard[Math.max(...outage) + 1]
  // A false claim: the viewer had no message from after the outage, came back after it, and the
  // server claimed a recovery.
  const acrossOutage = ({ recovered, left, at }) => recovered && left <= Math.min(...outage) && at > over
  return {
    viewers: viewers.length,
    published: receivers.length,
    outage: outage.size, // numbers that reached no subscriber
    cuts: sum(({ cuts }) => cuts),
    comebacks: sum(({ comebacks }) => comebacks.length),
    recovered: sum(({ comebacks }) => comebacks.filter(({ recovered }) => recovered).length),
    expected: viewers.length * receivers.length,
    once: sum(({ ledger }) => ledger.once),
    missing: sum(({ ledger }) => ledger.missing.size),
    missingElse: sum(({ ledger }) => [...ledger.missing].filter(number => !outage.has(number)).length),
    doubled: sum(({ ledger }) => ledger.doubled),
    late: sum(({ ledger }) => ledger.late),
    complete: sum(({ ledger: { missing, doubled, late } }) => Number(missing.size + doubled + late === 0)),
    told: sum(({ told }) => Number(told)),
    claimed: sum(({ comebacks }) => Number(comebacks.some(acrossOutage))),
  }
}
