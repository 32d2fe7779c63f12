// Watches rooms over a stock socket.io-client 4: each message once and in order, also across
// reconnects, and where some may be missing, it says so. Depends on nothing else; copy it freely.
//
//   const { watch } = await connect()            // or, with a socket of yours: watcher(socket)
//   const stop = watch('device01', (payload, { at }) => …, { last: 50, onGap: gap => … })

const PATIENCE = 10_000 // ms to wait for the server's answer

// Makes a socket with the client that lies beside this file, to the server at `url`: without it, to the
// one that this file comes from, also if a proxy serves that under a prefix. Where tokens are needed, `token` is one,
// or a function (it may be async) that gets one: at each connect, and before the old one expires.
// `onSource` is as for `watcher`; what remains are options of the client.
export async function connect(url, { token, onSource, ...options } = {}) {
  const { io } = await import('./vendor/socket.io.esm.min.js')
  const home = new URL('socket.io/', import.meta.url)
  const [server, path] = url === undefined ? [home.origin, { path: home.pathname }] : [url, {}]
  const get = async () => ({ token: typeof token === 'function' ? await token() : token })
  // A token that cannot be had is left out: then the server says what is missing.
  const auth = token === undefined ? {} : { auth: answer => get().catch(() => ({})).then(answer) }
  const socket = io(server, { ...path, ...auth, ...options })
  if (typeof token === 'function') {
    const renew = async () => socket.emit('auth', await get(), () => {})
    socket.on('error', ({ code }) => { if (code === 'expiring') renew().catch(console.error) })
  }
  return { socket, watch: watcher(socket, { onSource }) }
}

// Returns `watch(room, onMessage, options)`, which returns a function that stops. Once a socket.
// `onSource({ up, since })`: the server has lost its Redis for 2 s or more, or has it back.
// `onSource(null)`: the connection to the server is lost, so what was told before is out of date.
export function watcher(socket, { onSource } = {}) {
  const rooms = new Map()
  socket.on('connect', () => rooms.forEach(room => room.ask()))
  socket.on('disconnect', () => {
    rooms.forEach(room => room.pause())
    onSource?.(null)
  })
  socket.on('source', signal => onSource?.(signal))
  socket.on('message', (payload, meta) => rooms.get(meta?.room)?.take(payload, meta))
  socket.on('gap', gap => rooms.get(gap.room)?.announce(gap))

  return (name, onMessage, { last = 0, onGap, onJoin, onError = console.error } = {}) => {
    if (!rooms.has(name)) rooms.set(name, new Room(name, socket))
    const room = rooms.get(name)
    const watch = { begun: false, seen: null, skip: 0, last, onMessage, onGap, onJoin, onError }
    room.watches.add(watch)
    room.ask()
    return () => {
      if (!room.watches.delete(watch) || room.watches.size > 0) return
      rooms.delete(name)
      if (socket.connected) socket.emit('leave', name, () => {}) // else the server knows
    }
  }
}

// All watches of one room share its join. Those that have begun are always equally far.
class Room {
  watches = new Set()
  seen = null // the position up to which those have everything, once there are some
  live = false // whether what comes is to follow `seen`
  told = false // whether a gap was told since `seen`
  request = null // the one whose answer or replay is not complete

  constructor(name, socket) {
    this.name = name
    this.socket = socket
  }

  pause() {
    this.live = false
    this.request = null
  }

  // Asks for what some watches lack: first for those that have fallen behind, then for new ones.
  ask() {
    if (this.request || !this.socket.connected) return
    const behind = this.live ? [] : this.begun()
    const to = behind.length > 0 ? behind : [...this.watches].filter(watch => !watch.begun)
    if (to.length === 0) return
    const since = behind.length > 0 ? this.seen : undefined
    const request = this.request = { to, since, live: this.live }
    const last = Math.max(...to.map(watch => watch.last))
    const options = { meta: true, last, since: since && { epoch: since.epoch, offset: since.offset } }
    // Not by a promise: it would hear of the answer after the messages that come right behind it.
    this.socket.timeout(PATIENCE).emit('channel', this.name, options, (late, ack) => {
      if (this.request !== request) return // of a connection that is gone
      if (!late && ack.ok) return this.answered(ack)
      this.request = null
      const error = late ? { code: 'timeout', message: 'The server did not answer.' } : ack.error
      this.tell(to, 'onError', { room: this.name, ...error })
      if (late) this.ask()
    })
  }

  // The replay follows, and before it, if something is missing, a gap.
  answered(ack) {
    const { request } = this
    const isLost = Boolean(request.since) && !ack.recovered
    Object.assign(request, { ack, left: ack.replayed, isLost, awaitsGap: isLost })
    for (const watch of request.to) {
      if (!request.since) watch.skip = Math.max(0, ack.replayed - watch.last)
      this.tell([watch], 'onJoin', ack)
      if (!watch.begun && watch.seen && ack.replayed > 0) this.startOver(watch)
    }
    this.finish(request)
  }

  // An earlier replay for this watch broke off, while others were further.
  startOver(watch) {
    const { at } = watch.seen
    watch.seen = null
    const gap = { room: this.name, from: at, to: at, reason: 'not_recovered', replace: true }
    this.tell([watch], 'onGap', gap)
  }

  take(payload, meta) {
    const { request, live } = this
    if (!request?.ack) return live && this.follow(payload, meta)
    const { to, ack } = request
    if (meta.epoch === ack.epoch && meta.offset > ack.offset) {
      this.finish(request, true) // the replay is over
      return this.take(payload, meta)
    }
    request.left -= 1
    this.tellReplaced(request)
    this.replay(request, payload, meta)
    if (this.request !== request) return // a watch has closed the connection
    if (!request.live) {
      this.seen = meta
      for (const watch of to) watch.begun = true
    } else if (live && [ack.epoch, this.seen.epoch].includes(meta.epoch)) {
      this.follow(payload, meta) // others are live, and may lack the end of this replay
    }
    this.finish(request)
  }

  replay({ to, isLost }, payload, meta) {
    for (const watch of to) {
      if (watch.seen?.epoch === meta.epoch && meta.offset <= watch.seen.offset) continue // had it
      if (watch.skip > 0) {
        watch.skip -= 1
        continue
      }
      if (!isLost) this.compare([watch], watch.seen, meta)
      watch.seen = meta
      this.tell([watch], 'onMessage', payload, { ...meta, replayed: true })
    }
  }

  follow(payload, meta) {
    const { seen, told } = this
    if (meta.epoch === seen.epoch) {
      if (meta.offset <= seen.offset) return // had it
      if (meta.prev > seen.offset && !told) {
        this.live = false // a hole: what is in it comes before what is behind it
        return this.ask()
      }
    }
    this.seen = meta
    this.told = false
    const watches = this.begun()
    if (!told) this.compare(watches, seen, meta)
    for (const watch of watches) watch.seen = meta
    this.tell(watches, 'onMessage', payload, { ...meta, replayed: false })
  }

  // Where the replay ends, or is `over` in any case, its watches begin to follow.
  finish(request, over) {
    if (this.request !== request) return // a watch has closed the connection
    const { to, since, live, ack, left, awaitsGap, isLost } = request
    if ((left > 0 || awaitsGap) && !over) return
    const at = this.seen?.at ?? since?.at ?? Date.now()
    this.request = null
    if (!live) {
      this.seen = { epoch: ack.epoch, offset: ack.offset, at }
      this.live = true
      this.told = false
    }
    for (const watch of to) {
      const before = watch.seen
      Object.assign(watch, { begun: true, skip: 0, seen: { epoch: ack.epoch, offset: ack.offset, at } })
      if (!isLost) this.compare([watch], before, ack)
    }
    this.ask() // for those that have come meanwhile, or have a hole
  }

  // Where a new epoch begins, messages may be missing, also if no gap was told.
  compare(watches, before, { epoch, at = Date.now() }) {
    if (!before || before.epoch === epoch) return
    this.tell(watches, 'onGap', { room: this.name, from: before.at, to: at, reason: 'new_epoch' })
  }

  announce(gap) {
    const { request, live } = this
    const begun = this.begun()
    if (request?.ack) this.announceInReplay(gap)
    // What is forgotten under one watch's replay, the others have, or will miss it themselves.
    if (!live || request?.ack && gap.reason === 'forgotten') return
    this.told = true
    this.tell(begun, 'onGap', gap)
  }

  announceInReplay({ omitted = 0, ...gap }) {
    const { request } = this
    const { to, since, live, ack, awaitsGap } = request
    const from = Math.max(gap.from, since?.at ?? 0)
    request.awaitsGap = false
    request.left -= omitted
    for (const watch of to) watch.skip = Math.max(0, watch.skip - omitted)
    if (!awaitsGap || gap.reason !== 'unknown_position') {
      this.tell(to, 'onGap', { ...gap, from })
    } else {
      // The replay may have messages that the watches have: it replaces them, if there is one.
      for (const watch of to) watch.skip = Math.max(0, ack.replayed - watch.last)
      request.replaced = { ...gap, from, reason: 'not_recovered', replace: ack.replayed > 0 }
      if (ack.replayed === 0) this.tellReplaced(request)
    }
    this.finish(request)
    if (omitted > 0 && !live) this.told = true
  }

  tellReplaced(request) {
    const { to, replaced } = request
    if (!replaced) return
    request.replaced = undefined
    for (const watch of to) watch.seen = null
    this.tell(to, 'onGap', replaced)
  }

  begun() {
    return [...this.watches].filter(watch => watch.begun)
  }

  // A watch that throws must not cost the others their messages.
  tell(watches, hook, ...args) {
    for (const watch of watches) {
      if (!this.watches.has(watch)) continue // stopped meanwhile
      try {
        watch[hook]?.(...args)
      } catch (error) {
        setTimeout(() => { throw error })
      }
    }
  }
}
