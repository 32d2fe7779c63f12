// Watches rooms over a stock socket.io-client 4: each message once and in order, also across
// reconnects, and where some may be missing, it says so. Depends on nothing else; copy it freely.
//
//   const { watch } = await connect()            // or, with a socket of yours: watcher(socket)
//   const stop = watch('device01', (payload, { at }) => …, { last: 50, onGap: gap => … })

const PATIENCE = 10_000 // ms to wait for the server's answer

// Makes a socket with the client that lies beside this file. Where tokens are needed, `token` is one,
// or a function (it may be async) that gets one: at each connect, and before the old one expires.
// `onSource` is as for `watcher`; what remains are options of the client.
export async function connect(url, { token, onSource, ...options } = {}) {
  const { io } = await import('./vendor/socket.io.esm.min.js')
  const get = async () => ({ token: typeof token === 'function' ? await token() : token })
  // A token that cannot be had is left out: then the server says what is missing.
  const auth = answer => get().catch(() => ({})).then(answer)
  const socket = io(url, token === undefined ? options : { auth, ...options })
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
    const watch = { begun: false, last, onMessage, onGap, onJoin, onError }
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
  request = null // the one whose answer or replay is not complete: { to, since, live, ack, replay }

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
    const request = this.request = { to, since, live: this.live, replay: [] }
    const last = Math.max(...to.map(watch => watch.last))
    const options = { meta: true, last, since: since && { epoch: since.epoch, offset: since.offset } }
    // Not by a promise: it would hear of the answer after the messages that come right behind it.
    this.socket.timeout(PATIENCE).emit('channel', this.name, options, (late, ack) => {
      if (this.request !== request) return // of a connection that is gone
      request.ack = ack
      if (!late && ack.ok) return this.finish()
      this.request = null
      const error = late ? { code: 'timeout', message: 'The server did not answer.' } : ack.error
      this.tell(to, 'onError', { room: this.name, ...error })
      if (late) this.ask()
    })
  }

  // A message is part of a replay, or live. What comes after the answer up to its position is the
  // replay, for the watches that asked; others that are live may lack the end of it.
  take(payload, meta) {
    const { request, live } = this
    if (!request?.ack) return live && this.follow(payload, meta)
    const { ack, replay } = request
    if (meta.epoch === ack.epoch && meta.offset > ack.offset) {
      this.finish(true) // the replay is over, also if a part of it was forgotten meanwhile
      return this.take(payload, meta)
    }
    replay.push({ payload, meta })
    if (live && [ack.epoch, this.seen.epoch].includes(meta.epoch)) this.follow(payload, meta)
    if (this.request === request) this.finish()
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
    this.tell(watches, 'onMessage', payload, { ...meta, replayed: false })
  }

  // Hands a replay over once it is whole, or `over`: one that breaks off is as if it had not been
  // asked for. If something is missing, the server says what, before the replay.
  finish(over) {
    const { to, since, live, ack, replay } = this.request
    const messages = replay.filter(({ meta }) => meta)
    const isLost = since && !ack.recovered
    const isWhole = messages.length >= ack.replayed && (!isLost || replay.length > messages.length)
    if (!isWhole && !over) return
    this.request = null
    if (live && !this.live) return this.ask() // a hole came in between: it goes first
    if (!live) {
      const at = messages.at(-1)?.meta.at ?? since?.at ?? Date.now()
      this.seen = { epoch: ack.epoch, offset: ack.offset, at }
      this.live = true
      this.told = false
    }
    for (const watch of to) {
      watch.begun = true
      this.tell([watch], 'onJoin', ack)
      this.replay(watch, since, ack, replay, messages.length)
    }
    this.ask() // for those that have come meanwhile
  }

  // If the server does not know the position, the replay may have messages that the watch has: it
  // replaces them. Otherwise it only adds to them.
  replay(watch, since, ack, replay, count) {
    const isReplaced = replay.some(({ gap }) => gap?.reason === 'unknown_position')
    let skipped = since && !isReplaced ? 0 : Math.max(0, count - watch.last)
    let before
    for (const { payload, meta, gap } of replay) {
      if (gap) {
        const from = Math.max(gap.from, since?.at ?? 0)
        const lost = gap.reason === 'unknown_position' ? { reason: 'not_recovered', replace: count > 0 } : {}
        this.tell([watch], 'onGap', { ...gap, from, ...lost })
      } else if (skipped > 0) {
        skipped -= 1
      } else {
        if (!since || ack.recovered) this.compare([watch], before, meta)
        this.tell([watch], 'onMessage', payload, { ...meta, replayed: true })
        before = meta
      }
    }
    if (!since || ack.recovered) this.compare([watch], before, ack)
  }

  // Where a new epoch begins, messages may be missing, also if no gap was told.
  compare(watches, before, { epoch, at = Date.now() }) {
    if (!before || before.epoch === epoch) return
    this.tell(watches, 'onGap', { room: this.name, from: before.at, to: at, reason: 'new_epoch' })
  }

  announce(gap) {
    const { request, live } = this
    if (request?.ack && !request.live) {
      request.replay.push({ gap })
      return this.finish()
    }
    if (!live) return // the answer to come tells
    this.told = true
    this.tell(this.begun(), 'onGap', gap)
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
