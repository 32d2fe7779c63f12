// Where messages may be missing: what to say, and which gaps of several rooms are one outage.

import { clock, duration } from './format.js'

const CAUSES = {
  source_lost: ({ from, to }) => `${duration(to - from)} without the source`,
  queue_full: ({ from, to }) => `${duration(to - from)} with more than the server could take`,
  not_recovered: ({ from }) => `Not everything since ${clock(from)} could be recovered`,
}

const OF_ALL = ['source_lost', 'queue_full', 'new_epoch'] // reasons that concern many rooms at once

// Two gaps of different rooms as one, or nothing if they are not of one outage. Each room's gap reaches from
// its last message before the outage to its first one after, so the outage is what they have in common.
export function common(a, b) {
  if (a.reason !== b.reason || a.replace || b.replace) return
  if (a.from === b.from && a.to === b.to) return a
  const [from, to] = [Math.max(a.from, b.from), Math.min(a.to, b.to)]
  if (OF_ALL.includes(a.reason) && from <= to) return { ...a, from, to }
}

const unknown = ({ from, to }) => `From ${clock(from)} to ${clock(to)}`

export const describe = gap => `${(CAUSES[gap.reason] ?? unknown)(gap)}: messages may be missing`
