// One chart a field, one line a room, and at its end the room's name with the latest value.

import { onBeforeUnmount, onMounted, ref, shallowRef, watch } from '../vendor/vue.runtime.esm-browser.prod.js'
import uPlot from '../vendor/uPlot.esm.js'
import { stroke, variable } from '../colours.js'
import { spread } from '../ends.js'
import { clock, count, decimalsOf, number } from '../format.js'
import { describe } from '../gap.js'
import { html } from '../html.js'
import { rooms, selected } from '../rooms.js'
import { charts, columns, crowded, gapsOf, latestGap, range, RANGES, refresh, span } from '../series.js'
import { split } from '../units.js'
import { Cut } from './cut.js'

const DRAWN = 24 // lines of one chart: as many as look different
const NAME = 1.25 // rem; the height of a name at a line's end
const CHARACTER = 0.5 // rem; of a name, about
const VALUE = 4.5 // rem; of the value behind it, with its distance
const LEADER = 1.75 // rem; between the axes and the names, also for half of the last time
const LEAST_RANGE = 0.01 // of a value: a chart of less would make noise look like change

const root = () => getComputedStyle(document.documentElement)
const colour = name => () => root().getPropertyValue(name) // asked at each drawing: the theme may change

// A dot ends each unbroken stretch of a line, and is all there is of a lonely value.
function ends(plot, series) {
  const found = []
  let last
  for (const [index, y] of [...plot.data[series], null].entries()) {
    if (y === null && last !== undefined) found.push(last)
    if (y !== undefined) last = y === null ? undefined : index
  }
  return found
}

// Bands where messages may be missing, behind the lines; never too thin to be seen.
function drawGaps(plot, gaps) {
  const { ctx, bbox } = plot
  ctx.save()
  ctx.beginPath()
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height)
  ctx.clip()
  ctx.fillStyle = ctx.strokeStyle = colour('--edge')()
  ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio])
  for (const { from, to } of gaps) {
    const [left, right] = [from, to].map(ms => plot.valToPos(ms / 1000, 'x', true))
    ctx.globalAlpha = 0.25
    ctx.fillRect(left, bbox.top, Math.max(right - left, 2), bbox.height)
    ctx.globalAlpha = 1
    ctx.strokeRect(left, bbox.top - 1, Math.max(right - left, 2), bbox.height + 2)
  }
  ctx.restore()
}

// The lines of a chart: the first ones, and that of the selected room.
function drawn(field) {
  const lines = [...field.lines.values()]
  const chosen = lines.findIndex(({ room }) => room.name === selected.value)
  return lines.filter((_, i) => i < DRAWN || i === chosen)
}

function heights(_, min, max) {
  if (min === null) return [0, 1]
  const least = LEAST_RANGE * Math.max(Math.abs(min), Math.abs(max)) || 1
  const half = Math.max(max - min, least) / 2
  const middle = (min + max) / 2
  return [middle - 1.1 * half, middle + 1.1 * half]
}

// The latest value of each line, up to a place of the columns; undefined if it has none.
const latestOf = (data, last) => data.slice(1).map(ys => ys.slice(0, last + 1).findLast(y => y != null))

// Joins the end of each line with its name, beside the axes.
function drawLeaders(plot, lines, tops, rem) {
  const { ctx, bbox } = plot
  const right = bbox.left + bbox.width
  const shift = plot.over.offsetTop
  ctx.save()
  ctx.lineWidth = 2 * devicePixelRatio
  latestOf(plot.data, plot.data[0].length - 1).forEach((value, i) => {
    if (value === undefined) return
    ctx.globalAlpha = plot.series[i + 1].alpha ?? 1
    ctx.strokeStyle = colour(variable(lines[i].room.colour))()
    ctx.setLineDash(stroke(lines[i].room.colour).dash.map(length => length * devicePixelRatio))
    ctx.beginPath()
    ctx.moveTo(right, (plot.valToPos(value, 'y') + shift) * devicePixelRatio)
    ctx.lineTo(right + LEADER * rem * devicePixelRatio, (tops[i] + NAME * rem / 2) * devicePixelRatio)
    ctx.stroke()
  })
  ctx.restore()
}

// Where the names stand: as high as the ends of their lines, and those without a value below.
function topsOf(plot, rem) {
  const shift = plot.over.offsetTop
  const wanted = latestOf(plot.data, plot.data[0].length - 1)
    .map(value => (value === undefined ? plot.height : plot.valToPos(value, 'y') + shift))
  return spread(wanted, NAME * rem, plot.height)
}

function options(lines, onCursor, onDraw) {
  const rem = parseFloat(root().fontSize)
  const axis = {
    stroke: colour('--muted'),
    font: `${Math.round(rem * 0.75)}px ${root().fontFamily}`,
    grid: { stroke: colour('--hairline'), width: 1 },
    ticks: { show: false },
  }
  return {
    width: 1, height: 1, // until the box is measured
    legend: { show: false },
    padding: [rem * 0.5, rem * LEADER, 0, 0],
    focus: { alpha: 0.15 },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'charts' } },
    hooks: {
      setCursor: [plot => onCursor(plot.cursor.idx)],
      drawAxes: [plot => drawGaps(plot, gapsOf(lines, span.value))],
      draw: [plot => {
        const tops = topsOf(plot, rem)
        drawLeaders(plot, lines, tops, rem)
        onDraw(tops)
      }],
    },
    scales: { x: { range: (_, from, to) => [from, to] }, y: { range: heights } },
    axes: [
      { ...axis, size: rem * 1.6, gap: rem * 0.3, space: rem * 5.5, values: (_, seconds) => seconds.map(s => clock(s * 1000)) },
      {
        ...axis, gap: rem * 0.4, space: rem * 2.4,
        size: rem * 4.6, // the same for all charts, so that their times are below each other
        values: (_, ticks, axis, space, step) => ticks.map(tick => number(tick, decimalsOf(step))),
      },
    ],
    series: [{}, ...lines.map(({ room }) => ({
      label: room.name,
      stroke: colour(variable(room.colour)),
      dash: stroke(room.colour).dash,
      width: 2,
      points: { show: true, filter: ends, size: 7, fill: colour(variable(room.colour)) },
    }))],
  }
}

const Chart = {
  props: ['field'],
  setup({ field }) {
    const lines = drawn(field)
    const { label, unit } = split(field.name)
    const box = ref(null)
    const latest = shallowRef([])
    const tops = shallowRef([]) // of the names
    let plot, data, cursor

    // The value under the cursor, else the latest: a line's last one up to there.
    const read = () => { latest.value = latestOf(data, cursor ?? data[0].length - 1) }
    const place = places => { if (`${places}` !== `${tops.value}`) tops.value = places }
    const focus = () => {
      const index = lines.findIndex(({ room }) => room.name === selected.value)
      plot.setSeries(index < 0 ? null : index + 1, { focus: index >= 0 })
    }
    const draw = () => {
      data = columns(lines, span.value)
      plot.setData(data)
      read()
    }
    const observer = new ResizeObserver(([{ contentRect: { width, height } }]) => plot.setSize({ width, height }))

    data = columns(lines, span.value)
    onMounted(() => {
      plot = new uPlot(options(lines, index => { cursor = index; read() }, place), data, box.value)
      observer.observe(box.value)
      focus()
      read()
    })
    watch(span, draw)
    watch(selected, focus)
    onBeforeUnmount(() => {
      observer.disconnect()
      plot.destroy()
    })

    return () => html`
      <figure class="chart" data-testid="chart" data-field=${field.name} style=${{ '--lines': lines.length }}>
        <figcaption title=${field.name}><bdi>${label}</bdi>${unit && html`<span class="unit">${unit}</span>`}</figcaption>
        <div class="plot" ref=${box} role="img" aria-label=${`${field.name} over the last minutes, a line for each room`}></div>
        <dl>${lines.map(({ room }, i) => html`
          <div key=${room.name} style=${{ top: `${tops.value[i] ?? 0}px` }} class=${{ dim: selected.value && selected.value !== room.name }}>
            <dt title=${room.name}><${Cut} text=${room.name} /></dt>
            <dd>${latest.value[i] === undefined ? '–' : number(latest.value[i], field.decimals)}</dd>
          </div>`)}
        </dl>
        ${field.lines.size > lines.length && html`
          <p class="note" data-testid="undrawn">${count(field.lines.size - lines.length)} more rooms are not drawn: select one to see it.</p>`}
      </figure>`
  },
}

// The width of the names of all charts, in rem, so that their lines end below each other.
function widthOfNames() {
  const lengths = charts.value.flatMap(field => [...field.lines.keys()]).map(name => name.length)
  return VALUE + CHARACTER * Math.max(...lengths)
}

// A chart with other lines is another one.
const chartKey = field => `${field.key} ${field.lines.size > DRAWN ? selected.value : ''}`

export const Charts = {
  setup: () => () => html`
    <section class="charts" aria-label="Charts">
      <div class="ranges" role="group" aria-label="Time">
        ${RANGES.map(({ label }, i) => html`
          <button aria-pressed=${range.value === i} data-testid="range" onClick=${() => { range.value = i; refresh(rooms) }}>${label}</button>`)}
      </div>
      <div class="grid" style=${{ '--names': `${widthOfNames()}rem` }}>${charts.value.map(field => html`<${Chart} key=${chartKey(field)} field=${field} />`)}</div>
      ${latestGap.value && html`<p class="note break" data-testid="chart-gap">${describe(latestGap.value)}</p>`}
      ${crowded.value && html`<p class="note">Payloads hold more fields; the first ${charts.value.length} are drawn.</p>`}
    </section>`,
}
