// Viewers that vanish: from one moment on nothing comes from them or reaches them, no FIN, no RST.
//
// They are in a network namespace, at the other end of a veth pair. That takes root and `ip`.

import { setTimeout as pause } from 'node:timers/promises'
import { run, start, until } from '../tests/node/support.mjs'

const NAME = 'roomcast-bench' // the namespace's, and the link's at both ends: 15 letters at most
const [HERE, THERE] = ['10.213.117.1', '10.213.117.2']
const HARDWARE = '02:00:0a:d5:75:02'
const BEFORE = 50 // messages that each of them gets first
const LOOK_EVERY = 250 // ms
const HOLD = '5m' // longer than any row

// A namespace that leads nowhere but here. Returns how to start a program there, and how to take
// the way back from it. This end does not notice, as if there were a router in between: its link
// is up, and it has not found out the other's hardware address by asking.
export async function startSpace(owner) {
  const ip = async (args, commands) => {
    const { code, stderr } = await run(owner, 'ip', [...args, '-batch', '-'], { input: commands.join('\n') })
    if (code !== 0) throw new Error(`a network namespace takes root and ip: ${stderr.trim().split('\n')[0]}`)
  }
  const remove = async () => {
    // The link by itself: connections without an owner may keep a deleted namespace for minutes.
    await run(owner, 'ip', ['link', 'delete', NAME])
    await run(owner, 'ip', ['netns', 'delete', NAME])
  }
  await remove() // what one that was killed has left
  owner.after(remove)
  await ip([], [
    `netns add ${NAME}`,
    `link add ${NAME} type veth peer name ${NAME} address ${HARDWARE} netns ${NAME}`,
    `address add ${HERE}/30 dev ${NAME}`,
    `link set ${NAME} up`,
    `neighbour add ${THERE} lladdr ${HARDWARE} dev ${NAME} nud permanent`,
  ])
  const there = ['-netns', NAME]
  await ip(there, [`address add ${THERE}/30 dev ${NAME}`, `link set ${NAME} up`])
  return {
    start: (program, args) => start(owner, 'ip', ['netns', 'exec', NAME, program, ...args]),
    vanish: () => ip(there, [`address flush dev ${NAME}`]),
  }
}

// What a server's metrics say at the moment: for a name, the sum over all labels.
async function metrics(admin) {
  const lines = (await (await fetch(`http://${admin}/metrics`)).text()).split('\n')
  return name => lines.filter(line => line.startsWith(name) && ' {'.includes(line[name.length]))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

// So many viewers join, before a benchmark that has the same `flags` publishes in their room.
// Returns what is to be called beside that: it lets them vanish while they receive, looks on until
// it is `over`, and tells how many were cut off, when the last one was, and what waited at most.
export async function startVanishing(space, { port, admin }, count, flags) {
  const viewers = space.start(process.env.ROOMCAST_BIN, [
    'bench', `http://${HERE}:${port}`, '--viewers', count, '--hold', HOLD, ...flags,
  ].map(String))
  await until(async () => {
    if (viewers.code !== undefined) throw new Error(`nobody is there to vanish: ${viewers.stderr}`)
    return (await metrics(admin))('roomcast_members') === count
  }, 'those that will vanish have joined')
  const before = (await metrics(admin))('roomcast_messages_total')
  return async over => {
    const found = { cut: 0, seconds: 0, bytes: 0 }
    let at
    for (; !over(); await pause(LOOK_EVERY)) {
      const now = await metrics(admin)
      if (at === undefined) {
        if (now('roomcast_messages_total') < before + BEFORE) continue
        await space.vanish()
        at = performance.now()
      }
      const cut = now('roomcast_closes_total')
      if (cut > found.cut) found.seconds = (performance.now() - at) / 1000
      found.cut = cut
      found.bytes = Math.max(found.bytes, now('roomcast_backlog_bytes'))
    }
    return found
  }
}
