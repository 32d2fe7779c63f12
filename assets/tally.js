// How much a room hears: a count, the last time, and the messages of each recent second.

import { Ring } from './ring.js'

export const SECONDS = 60 // shown as bars
const WINDOW = 10 // seconds the rate is taken over
const INTERVALS = 40 // between messages, the latest
const FEWEST = 5 // of them, before anything is usual
const SILENT = 10 // usual intervals
const LEAST = 2_000 // ms

export class Tally {
  count = 0
  last = null // ms, server clock
  first = null // second
  intervals = [] // ms
  ring = new Ring(SECONDS + 1) // the running second is not complete and not counted yet

  add(at) {
    const second = Math.floor(at / 1000)
    this.count++
    if (this.last !== null) this.intervals.push(Math.max(0, at - this.last))
    if (this.intervals.length > INTERVALS) this.intervals.shift()
    this.last = Math.max(this.last, at)
    this.first ??= second
    this.ring.set(second, (this.ring.get(second) ?? 0) + 1)
  }

  // Messages in each complete second, oldest first.
  seconds(now) {
    const running = Math.floor(now / 1000)
    return Array.from({ length: SECONDS }, (_, i) => this.ring.get(running - SECONDS + i) ?? 0)
  }

  // Messages a second. A room that has only begun to talk is not averaged with its silence before.
  rate(now) {
    if (this.count === 0) return 0
    const window = Math.min(WINDOW, Math.max(1, Math.floor(now / 1000) - this.first))
    return this.seconds(now).slice(-window).reduce((sum, n) => sum + n, 0) / window
  }

  // The usual time between two messages, in ms; 0 if it is not known.
  usual() {
    const sorted = this.intervals.toSorted((a, b) => a - b)
    return sorted[sorted.length >> 1] ?? 0
  }

  // How long this room may be silent, in ms, before it counts as stale: ten times the median of its
  // intervals. Who speaks in bursts has a pause among them again and again, and gets twice that.
  patience() {
    if (this.intervals.length < FEWEST) return Infinity
    const [, second] = this.intervals.toSorted((a, b) => b - a)
    return Math.max(LEAST, SILENT * this.usual(), 2 * second)
  }
}
