// What the page reads out of payloads, and how it writes it.

import assert from 'node:assert/strict'
import test from 'node:test'
import { spread } from '../../assets/ends.js'
import { csv, ndjson } from '../../assets/export.js'
import { pace, reading } from '../../assets/format.js'
import { common } from '../../assets/gap.js'
import { exceeds, read } from '../../assets/link.js'
import { readings } from '../../assets/message.js'
import { Tally } from '../../assets/tally.js'
import { split } from '../../assets/units.js'

test('readings are numbers, booleans and short texts, of an object or of the whole payload', () => {
  for (const [payload, expected] of [
    ['21.5', [['value', 21.5]]],
    [' -1e3\n', [['value', -1000]]],
    ['"21.5"', [['value', 21.5]]],
    ['true', [['value', true]]],
    ['open', [['value', 'open']]],
    ['{"a": "21.5", "b": {"c": 1, "d": {"e": 2}}, "on": false, "state": "heating"}',
      [['a', 21.5], ['b.c', 1], ['on', false], ['state', 'heating']]],
    ['{"list": [1, 2], "none": null, "empty": "", "long": "this text is too long to be a state"}', []],
    ['{"broken": ', [['value', '{"broken":']]],
    ['', []],
    ['[1, 2]', []],
    ['1e400', []],
    ['a text of more than 24 characters', []],
    ['two\nlines', []],
    ['0x10', [['value', '0x10']]],
  ]) assert.deepEqual(readings(payload), expected, payload)
  assert.deepEqual(readings(new ArrayBuffer(4)), [])
})

test('a unit is what a name ends with, if it is one', () => {
  for (const [name, expected] of [
    ['temperature_c', { label: 'temperature', unit: '°C' }],
    ['humidity_pct', { label: 'humidity', unit: '%' }],
    ['power.line_kW', { label: 'power.line', unit: 'kW' }],
    ['c', { label: 'c', unit: '' }],
    ['_c', { label: '_c', unit: '' }],
    ['door_state', { label: 'door_state', unit: '' }],
    ['a_constructor', { label: 'a_constructor', unit: '' }],
  ]) assert.deepEqual(split(name), expected, name)
})

test('how often something comes is never 0.0 per second', () => {
  assert.equal(pace(12.4, 80), '12 per second')
  assert.equal(pace(0.03, 30_000), 'every 30 s')
  assert.equal(pace(0, 3_600_000), 'every 60 min')
  assert.equal(pace(0, 0), '')
  assert.equal(pace(0.3, 3), '')
  const tally = new Tally()
  for (const at of [0, 30_000, 60_000, 61_000]) tally.add(at)
  assert.equal(tally.usual(), 30_000)
})

test('readings are written as people read them', () => {
  assert.deepEqual([reading(1013.25, 2), reading(true), reading(false), reading('open')], ['1,013.25', 'yes', 'no', 'open'])
})

test('gaps of several rooms are one outage if they overlap, and reach as far as all of them do', () => {
  const gap = (from, to, reason = 'source_lost', more) => ({ from, to, reason, ...more })
  for (const [a, b, expected] of [
    [gap(1, 5), gap(1, 5), gap(1, 5)],
    [gap(1, 5), gap(3, 9), gap(3, 5)],
    [gap(1, 9, 'new_epoch'), gap(3, 4, 'new_epoch'), gap(3, 4, 'new_epoch')],
    [gap(1, 5), gap(6, 9), undefined],
    [gap(1, 5), gap(1, 5, 'queue_full'), undefined],
    [gap(1, 5, 'too_large'), gap(2, 5, 'too_large'), undefined],
    [gap(1, 5, 'not_recovered', { replace: true }), gap(1, 5, 'not_recovered', { replace: true }), undefined],
  ]) {
    assert.deepEqual(common(a, b), expected)
    assert.deepEqual(common(b, a), expected)
  }
})

test('names at the ends of lines are as near to them as can be, and none is over another', () => {
  for (const [wanted, height, space, expected] of [
    [[], 10, 100, []],
    [[50], 10, 100, [45]],
    [[0, 100], 10, 100, [0, 90]],
    [[80, 20], 10, 100, [75, 15]],
    [[50, 50, 50], 10, 100, [35, 45, 55]],
    [[100, 98, 70], 10, 100, [90, 80, 65]],
    [[2, 1, 15], 10, 100, [10, 0, 20]],
    [[50, 50, 50, 50], 10, 20, [0, 5, 10, 15]],
    [[30, 31, 60, 44], 10, 100, [20, 30, 55, 40]],
  ]) assert.deepEqual(spread(wanted, height, space), expected, `${wanted}`)
  for (let seed = 1; seed < 200; seed++) {
    const wanted = Array.from({ length: 1 + seed % 24 }, (_, i) => (seed * 7919 + i * i * 104_729) % 300)
    const tops = spread(wanted, 12, 300).toSorted((a, b) => a - b)
    assert.ok(tops.every((top, i) => top >= 0 && top <= 288 && (i === 0 || top - tops[i - 1] > 11.999)), `${wanted}`)
  }
})

test('a link says how the page looks, and names what it does not know', () => {
  const link = read('?room=a&kiosk&theme=dark&only=chart&span=1h&warn=t_c>60&warn=level<-1.5')
  assert.deepEqual(link, {
    kiosk: true, theme: 'dark', only: 'chart', span: 2, ignored: [],
    warnings: [{ name: 't_c', sign: '>', limit: 60 }, { name: 'level', sign: '<', limit: -1.5 }],
  })
  const strange = '?theme=pink&only=&span=2m&warn=a>b&warn=%3Cscript%3E&constructor=1&utm_source'
  assert.deepEqual(read(strange).ignored,
    ['theme=pink', 'only', 'span=2m', 'warn=a>b', 'warn=<script>', 'constructor=1', 'utm_source'])
  const values = [['t_c', 60], ['t_c', 60.1], ['level', -2], ['level', 0], ['other', 99], ['t_c', '99']]
  assert.deepEqual(values.map(([name, value]) => exceeds(link.warnings, name, value)),
    [false, true, true, false, false, false])
})

test('files have one line a message, and no cell that a spreadsheet takes for a formula', () => {
  const rooms = [{ name: 'room' }]
  const entries = ['=1+1', '-5', '@x', 'a "b",\nc', ''].map(text => ({ rooms, at: 0, text }))
  entries.push({ rooms: [...rooms, { name: '+other' }], at: 1000, gap: { reason: 'source_lost' } })
  assert.equal(csv(entries), `room,at,payload,gap\r\n${[
    '"\'=1+1"', '"-5"', '"\'@x"', '"a ""b"",\nc"', '""',
  ].map(cell => `"room","1970-01-01T00:00:00.000Z",${cell},""\r\n`).join('')
    }"room","1970-01-01T00:00:01.000Z","","source_lost"\r\n"'+other","1970-01-01T00:00:01.000Z","","source_lost"\r\n`)
  const lines = ndjson(entries).trim().split('\n').map(line => JSON.parse(line))
  assert.deepEqual(lines[0], { room: 'room', at: '1970-01-01T00:00:00.000Z', payload: '=1+1' })
  assert.deepEqual(lines[5], { room: 'room', at: '1970-01-01T00:00:01.000Z', gap: 'source_lost' })
})
