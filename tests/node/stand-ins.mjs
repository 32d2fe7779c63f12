// Stand-ins for command-line programs of a cloud: the test answers and records each call.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, symlink } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { json, text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'

const PROGRAM = fileURLToPath(new URL('stand-in.mjs', import.meta.url))

// Links the programs into a folder, and returns the variables that make scripts use them. For each
// call, `answer({ program, args, env, input })` returns what it prints, or
// `{ stdout, stderr, code }`; the call fails if it throws.
export async function standIn(t, folder, programs, answer) {
  const calls = []
  const server = createServer(async (request, response) => {
    const call = await json(request)
    calls.push(call)
    const failed = error => ({ stderr: `${call.program} ${call.args.join(' ')}: ${error}\n`, code: 1 })
    const result = await Promise.resolve(call).then(answer).catch(failed)
    response.end(JSON.stringify(typeof result === 'object' ? result : { stdout: result }))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => (server.close(), server.closeAllConnections()))
  await mkdir(folder, { recursive: true })
  for (const program of programs) await symlink(PROGRAM, join(folder, program))
  const env = {
    PATH: `${folder}:${process.env.PATH}`,
    STAND_IN_ANSWERS: `http://127.0.0.1:${server.address().port}`,
  }
  return { calls, env }
}

// Runs a script in bash to its end.
export async function bash(script, { cwd, env, input = '' }) {
  const child = spawn('bash', ['--norc', '-euo', 'pipefail', '-c', script], { cwd, env })
  child.stdin.on('error', () => {}) // the program may exit without reading its input
  child.stdin.end(input)
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout), text(child.stderr), once(child, 'close'),
  ])
  return { stdout, stderr, code }
}
