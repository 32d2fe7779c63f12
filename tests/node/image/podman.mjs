// podman, in the namespaces that tests/image/run has created.

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { parse } from 'yaml'

const ROOT = new URL('../../../', import.meta.url)
const execute = promisify(execFile)

// The local name of an image that the deployment files name, as tests/image/run has tagged it.
export const image = name => {
  const [, program, tag] = name.match(/([^/]+):(.+)$/)
  if (program !== 'roomcast') return `docker.io/library/${program}:${tag}`
  return `localhost/roomcast:${tag.endsWith('-aci') ? 'aci' : 'final'}`
}

export const yaml = async path => parse(await readFile(new URL(path, ROOT), 'utf8'))

// Runs podman, and returns its output. Fails with the reason if the exit code is not 0.
export const podman = async (...args) => (await execute('podman', args)).stdout.trim()

// Starts a container that is removed after its test.
export async function start(t, name, args) {
  await podman('run', '--detach', '--name', name, ...args)
  t.after(() => podman('rm', '--force', '--time', '0', name))
  const inspect = async template => JSON.parse(await podman('inspect', '--format', `{{json ${template}}}`, name))
  return {
    inspect,
    exec: (...command) => podman('exec', name, ...command),
    log: async () => (await execute('podman', ['logs', name])).stderr,
    // A field of /proc/PID/status of its first process, such as `Uid`.
    kernel: async field => {
      const status = await readFile(`/proc/${await inspect('.State.Pid')}/status`, 'utf8')
      return status.match(new RegExp(`^${field}:\\s*(.*)$`, 'm'))[1].split(/\s+/)
    },
    // Stops the container, and returns its exit code.
    stop: async seconds => {
      await podman('stop', '--time', seconds, name)
      return inspect('.State.ExitCode')
    },
  }
}
