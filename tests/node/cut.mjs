// The cut test: numbered messages, viewers whose connections break at random again and again, and
// what each of them ends with. Knows both servers that it is made against; benches/ uses it too.

import { Agent } from 'node:http'
import client4 from 'client4'
import { until } from './support.mjs'

const AWAY = 2_000 // ms from a cut to the next attempt to connect
const REPLAY_MAX = 2_048 // messages that Roomcast replays at most

// The same numbers from 0 to 1 for the same seed (mulberry32), so that a failure can be had again.
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

// A client's TCP connection in our hands: it can break, or not be read any more.
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

// A stock client over a line of its own.
export function clientOnLine(url, options) {
  const line = new Line()
  const socket = client4(url, { ...options, forceNew: true, transports: ['websocket'], agent: line })
  return { line, socket }
}

// Which numbers came: from 0 on, each should once and in order.
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

  constructor(url, room) {
    this.room = room
    const delays = { reconnectionDelay: AWAY, reconnectionDelayMax: AWAY, randomizationFactor: 0 }
    Object.assign(this, clientOnLine(url, delays))
    this.socket.on('connect', () => this.enter())
    this.socket.on('disconnect', () => {
      this.joined = false
      this.left = this.ledger.next // now: Socket.IO brings what was missed before it says `connect`
    })
  }

  cut() {
    if (!this.joined) return
    this.joined = false
    this.cuts++
    this.line.cut()
  }

  // It is in the room, and knows whether nothing is missing since it was.
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

// Joins again with the position it has.
export class RoomcastViewer extends Viewer {
  constructor(...args) {
    super(...args)
    this.socket.on('gap', () => { this.told = true })
    this.socket.on('message', (payload, place) => {
      // Where a recovery was refused, the replay may begin before our position.
      if (place.epoch === this.past?.epoch && place.offset <= this.past.offset) return
      this.take(payload)
      this.seen = place
    })
  }

  enter() {
    const since = this.seen && { epoch: this.seen.epoch, offset: this.seen.offset }
    const options = { meta: true, last: since && REPLAY_MAX, since }
    this.socket.emit('channel', this.room, options, ({ epoch, offset, recovered }) => {
      this.past = recovered ? undefined : since
      this.seen ??= { epoch, offset }
      this.entered(recovered)
    })
  }
}

// Of Socket.IO on Node with connection state recovery, which brings the rooms back too.
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

// Makes the test, and returns what came of it. With `kill`, Redis ends the subscription half-way.
// `up` is how many seconds a viewer is in the room between two cuts, at least and at most.
export async function cutTest(owner, { View, url, redis, seed, kill, ...load }) {
  const { seconds, rate, up: [least, most] } = load
  const random = seeded(seed)
  const viewers = Array.from({ length: load.viewers }, () => new View(url, 'cut'))
  const firstHeard = [] // when any viewer had a number
  for (const viewer of viewers) {
    owner.after(() => viewer.socket.close())
    viewer.onNumber = number => { firstHeard[number] ??= performance.now() }
  }
  await until(() => viewers.every(viewer => viewer.joined), 'all viewers are in the room')

  const receivers = [] // of each number, as Redis counts them
  const publish = () => receivers.push(redis.publish('cut', `${receivers.length}`))
  const timers = new Set()
  const after = (ms, then) => {
    const timer = setTimeout(() => (timers.delete(timer), then()), ms)
    timers.add(timer)
  }
  owner.after(() => timers.forEach(clearTimeout))

  const cutLater = (viewer, away) => after(away + 1000 * (least + random() * (most - least)), () => {
    viewer.cut()
    cutLater(viewer, AWAY)
  })
  for (const viewer of viewers) cutLater(viewer, 0)

  // By the clock, so that a busy moment does not make them fewer.
  await new Promise((resolve, reject) => {
    const begin = performance.now()
    let killed = !kill
    const tick = async () => {
      const due = Math.min((performance.now() - begin) / 1000, seconds)
      // What was published must have left Redis before, or the count of receivers would not hold.
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

  // Rooms are in order: whoever has the last number gets nothing more.
  await until(() => viewers.every(viewer => viewer.joined), 'all viewers are back')
  publish()
  await until(() => viewers.every(({ ledger }) => ledger.next === receivers.length), 'all have the last number')
  return outcome(viewers, await Promise.all(receivers), firstHeard)
}

function outcome(viewers, receivers, firstHeard) {
  const sum = count => viewers.reduce((total, viewer) => total + count(viewer), 0)
  const outage = new Set(receivers.flatMap((count, number) => (count === 0 ? [number] : [])))
  const over = firstHeard[Math.max(...outage) + 1]
  // It had nothing from after the outage, came back after it, and was told that nothing is missing.
  const acrossOutage = ({ recovered, left, at }) => recovered && left <= Math.min(...outage) && at > over
  return {
    viewers: viewers.length,
    published: receivers.length,
    outage: outage.size, // numbers that reached no subscription
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
