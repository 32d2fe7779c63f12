#!/usr/bin/env node
// A program that asks the test what to print; the name by which it is called says which program it
// replaces. See stand-ins.mjs.

import { basename } from 'node:path'
import { text } from 'node:stream/consumers'

const [, path, ...args] = process.argv
const { STAND_IN_ANSWERS, ...env } = process.env
const call = { program: basename(path), args, env, input: await text(process.stdin) }
const answer = await (await fetch(STAND_IN_ANSWERS, { method: 'POST', body: JSON.stringify(call) })).json()
process.stdout.write(answer.stdout ?? '')
process.stderr.write(answer.stderr ?? '')
process.exitCode = answer.code ?? 0
