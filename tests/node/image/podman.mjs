// podman, in the namespaces that tests/image/run has made.

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { parse } from 'yaml'

const ROOT = new URL('../../../', import.meta.url)
const execute = promisify(execFile)

// Where tests/image has put what the files of deployment name.
export const image = name => {
  const [, program, tag] = name.match(/([^/]+):(.+)$/)
  if (program !== 'roomcast') return `docker.io/library/${program}:${tag}`
  return `localhost/roomcast:${tag.endsWith('-aci') ? 'aci' : 'final'}`
}

export const yaml = async path => parse(await readFile(new URL(path, ROOT), 'utf8'))

// What a command prints. It fails with the reason if the exit code is not 0.
export const podman = async (...args) => (await execute('podman', args)).stdout.trim()

// A container that runs, and ends with its test; why it failed is in its log.
export async function start(t, name, args) {
  await podman('run', '--detach', '--name', name, ...args)
  t.after(() => podman('rm', '--force', '--time', '0', name))
  const inspect = async template => JSON.parse(await podman('inspect', '--format', `{{json ${template}}}`, name))
  return {
    inspect,
    exec: (...command) => podman('exec', name, ...command),
    log: async () => (await execute('podman', ['logs', name])).stderr,
    // What the kernel says of its first process, such as `Uid`.
    kernel: async field => {
      const status = await readFile(`/proc/${await inspect('.State.Pid')}/status`, 'utf8')
      return status.match(new RegExp(`^${field}:\\s*(.*)$`, 'm'))[1].split(/\s+/)
    },
    // The exit code.
    stop: async seconds => {
      await podman('stop', '--time', seconds, name)
      return inspect('.State.ExitCode')
    },
  }
}
