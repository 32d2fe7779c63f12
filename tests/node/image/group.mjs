// A container group as on Azure: a pod, with a folder in place of the file share.

import { image, podman, start } from './podman.mjs'
import { until } from '../support.mjs'

const OUTSIDE = '10.99.0.1' // the address of this machine inside the group

const settings = (variables, own) => {
  const given = variables.map(({ name, value, secureValue }) => [name, value ?? secureValue])
  return Object.entries({ ...Object.fromEntries(given), ...own })
    .filter(([, value]) => value !== undefined)
    .flatMap(([name, value]) => ['--env', `${name}=${value}`])
}

// Starts one container of the group, with additional settings and mounts of the test.
function startMember(t, group, name, { share, env = {}, extra = [] } = {}) {
  const { properties: member } = group.containers.find(container => container.name === name)
  const [entrypoint, ...args] = member.command ?? []
  const { cpu, memoryInGB } = member.resources.requests
  return start(t, name, [
    '--pod', 'group', '--cpus', cpu, '--memory', Math.round(memoryInGB * 2 ** 30),
    ...settings(member.environmentVariables ?? [], env),
    ...(member.volumeMounts ?? []).flatMap(({ mountPath }) => ['--volume', `${share}:${mountPath}`]),
    ...extra,
    ...(entrypoint ? ['--entrypoint', entrypoint] : []),
    image(member.image), ...args,
  ])
}

export async function startNetwork(t) {
  await podman('network', 'create', '--subnet', '10.99.0.0/24', '--gateway', OUTSIDE, 'azure')
  t.after(() => podman('network', 'rm', '--force', 'azure'))
}

// Starts the group, and waits until its server is subscribed to its Redis. The test's CA issues the
// certificates; `env` has further settings of the server.
export async function startGroup(t, group, { share, ca, env = {} }) {
  const ports = group.ipAddress.ports.flatMap(({ port }) => ['--publish', `${port}:${port}`])
  await podman('pod', 'create', '--name', 'group', '--network', 'azure', '--add-host', `ca:${OUTSIDE}`, ...ports)
  t.after(() => podman('pod', 'rm', '--force', '--time', '0', 'group'))
  const redis = await startMember(t, group, 'redis')
  const server = await startMember(t, group, 'roomcast', {
    share,
    env: { ACME_CA: ca.directory, ACME_CA_ROOT: '/ca.pem', ...env },
    extra: ['--volume', `${ca.trust}:/ca.pem:ro`],
  })
  const ready = () => server.exec('roomcast', 'healthcheck', '--ready').catch(() => false)
  await until(ready, 'it is subscribed to the Redis beside it')
  return { redis, server }
}
