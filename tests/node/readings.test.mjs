// What the page reads out of payloads, and how it writes it.

import assert from 'node:assert/strict'
import test from 'node:test'
import { pace, reading } from '../../assets/format.js'
import { readings } from '../../assets/message.js'
import { Tally } from '../../assets/tally.js'
import { split } from '../../assets/units.js'

test('readings are numbers, truths and short texts, of an object or of the whole payload', () => {
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
  const tally = new Tally()
  for (const at of [0, 30_000, 60_000, 61_000]) tally.add(at)
  assert.equal(tally.usual(), 30_000)
})

test('readings are written as people read them', () => {
  assert.deepEqual([reading(1013.25, 2), reading(true), reading(false), reading('open')], ['1,013.25', 'yes', 'no', 'open'])
})
