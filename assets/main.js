// Wires the page: every message to the rooms, the feed and the charts, and a heartbeat that draws them.

import { createApp } from './vendor/vue.runtime.esm-browser.prod.js'
import { heard } from './clock.js'
import * as feed from './feed.js'
import { listen } from './keys.js'
import { link } from './link.js'
import { preview, readings } from './message.js'
import { learn, openAddress, refresh, rooms, startOver } from './rooms.js'
import * as series from './series.js'
import { complaint } from './socket.js'
import { App } from './view/app.js'

const hearing = {
  // What follows are messages of one room, perhaps from before those of others that are shown.
  join: () => feed.sort(),

  message(room, payload, { at, replayed }) {
    if (!replayed) heard(at)
    room.tally.add(at)
    feed.receive({ room, at, ...preview(payload) })
    const found = readings(payload)
    learn(room, at, found)
    series.record(room, at, found.filter(([, value]) => typeof value === 'number'))
  },

  gap(room, gap) {
    if (gap.replace) {
      startOver(room)
      series.startOver(room)
    }
    series.interrupt(room, gap)
    feed.receive({ room, at: gap.replace ? gap.from : gap.to, gap })
  },
}

// Drawing keeps its own pace, whatever the rooms'. A hidden page only keeps its (bounded) books.
const BEAT = 200 // ms; the list
const BEATS = 5 // to a second: numbers and charts
const MOST_NEW = 20 // messages in a beat; more are too many to read, and the list is drawn once a second

let beat = 0
function draw() {
  if (document.hidden) return
  if (beat % BEATS === 0 || feed.isCalm(MOST_NEW)) feed.show()
  if (beat++ % BEATS) return
  refresh()
  series.refresh(rooms)
}

const problem = openAddress(hearing)
createApp(App, { problem }).mount('#app')
listen()
if (link.ignored.length > 0) complaint.value = `This page does not know ${link.ignored.join(', ')} in its link.`
setInterval(draw, BEAT)
document.addEventListener('visibilitychange', () => {
  beat = 0
  draw()
})
