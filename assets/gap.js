// What to say where messages may be missing.

import { clock, duration } from './format.js'

const CAUSES = {
  source_lost: ({ from, to }) => `${duration(to - from)} without the source`,
  queue_full: ({ from, to }) => `${duration(to - from)} with more than the server could take`,
  not_recovered: ({ from }) => `Not everything since ${clock(from)} could be recovered`,
}

const unknown = ({ from, to }) => `From ${clock(from)} to ${clock(to)}`

export const describe = gap => `${(CAUSES[gap.reason] ?? unknown)(gap)}: messages may be missing`
