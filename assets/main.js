// Wires the page: every message to the rooms, the feed and the charts, and a heartbeat that draws them.

import { createApp } from './vendor/vue.runtime.esm-browser.prod.js'
import { heard } from './clock.js'
import * as feed from './feed.js'
import { listen } from './keys.js'
import { numbers, preview } from './message.js'
import { openAddress, refresh, rooms } from './rooms.js'
import * as series from './series.js'
import { socket } from './socket.js'
import { App } from './view/app.js'

socket.on('message', (payload, { room: name, at }) => {
  const room = rooms.get(name)
  if (!room) return // left while it was on its way
  heard(at)
  room.tally.add(at)
  feed.receive({ room, at, ...preview(payload) })
  series.record(room, at, numbers(payload))
})

socket.on('gap', ({ room: name, from, to, reason }) => {
  const room = rooms.get(name)
  if (room) feed.receive({ room, at: to, gap: { from, to, reason } })
})

// Drawing keeps its own pace, whatever the rooms'. A hidden page only keeps its (bounded) books.
const BEAT = 200 // ms; the list
const BEATS = 5 // to a second: numbers and charts

let beat = 0
function draw() {
  if (document.hidden) return
  feed.show()
  if (beat++ % BEATS) return
  refresh()
  series.refresh(rooms)
}

const problem = openAddress()
createApp(App, { problem }).mount('#app')
listen()
setInterval(draw, BEAT)
document.addEventListener('visibilitychange', () => {
  beat = 0
  draw()
})
