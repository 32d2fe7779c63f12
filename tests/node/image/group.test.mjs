// multi.yaml: server and Redis as one group, as a pod, with a folder for the file share.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as dial } from 'node:net'
import test from 'node:test'
import { connect as dialTls } from 'node:tls'
import { temporaryFolder, until } from '../support.mjs'
import { startCa } from './ca.mjs'
import { image, podman, start, yaml } from './podman.mjs'

const HOST = 'rt.example.com'
const OUTSIDE = '10.99.0.1' // this machine, as the group sees it
const { properties: group } = await yaml('multi.yaml')

const settings = (variables, own) => {
  const given = variables.map(({ name, value, secureValue }) => [name, value ?? secureValue])
  return Object.entries({ ...Object.fromEntries(given), ...own })
    .filter(([, value]) => value !== undefined)
    .flatMap(([name, value]) => ['--env', `${name}=${value}`])
}

// One of the group's containers, with settings and mounts of the test's own.
function startMember(t, name, { share, env = {}, extra = [] } = {}) {
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

async function startGroup(t, share, ca) {
  const ports = group.ipAddress.ports.flatMap(({ port }) => ['--publish', `${port}:${port}`])
  await podman('pod', 'create', '--name', 'group', '--network', 'azure', '--add-host', `ca:${OUTSIDE}`, ...ports)
  t.after(() => podman('pod', 'rm', '--force', '--time', '0', 'group'))
  const redis = await startMember(t, 'redis')
  const server = await startMember(t, 'roomcast', {
    share,
    // The test's CA proves a host by a handshake, as without a domain of one's own.
    env: { RTHOST: HOST, ACME_CA: ca.directory, ACME_CA_ROOT: '/ca.pem', CLOUDFLARE_DNS_API_TOKEN: undefined },
    extra: ['--volume', `${ca.trust}:/ca.pem:ro`],
  })
  const ready = () => server.exec('roomcast', 'healthcheck', '--ready').catch(() => false)
  await until(ready, 'it is subscribed to the Redis beside it')
  return { redis }
}

// The serial number of a certificate for the host that the CA's root vouches for.
async function serial(ca) {
  const socket = dialTls({ host: '127.0.0.1', port: 443, servername: HOST, ca: ca.root })
  try {
    await once(socket, 'secureConnect')
    return socket.getPeerCertificate().serialNumber
  } finally {
    socket.destroy()
  }
}

// The error of a connection from outside, or undefined.
async function refusal(host, port) {
  const socket = dial({ host, port })
  try {
    await once(socket, 'connect')
  } catch (error) {
    return error.code
  } finally {
    socket.destroy()
  }
}

const address = async () => {
  const infra = await podman('pod', 'inspect', '--format', '{{.InfraContainerID}}', 'group')
  return podman('inspect', '--format', '{{.NetworkSettings.Networks.azure.IPAddress}}', infra)
}

test('a group keeps its certificate on the share, and its Redis for itself', async t => {
  await podman('network', 'create', '--subnet', '10.99.0.0/24', '--gateway', OUTSIDE, 'azure')
  t.after(() => podman('network', 'rm', '--force', 'azure'))
  const ca = await startCa(t, 'ca')
  const share = await temporaryFolder(t)

  const { redis } = await startGroup(t, share, ca)
  const issued = await until(() => serial(ca).catch(() => false), 'there is a certificate')
  assert.equal(await redis.exec('redis-cli', 'publish', 'device01', 'hello'), '1')

  const host = await address()
  assert.equal(await refusal(host, 443), undefined)
  assert.equal(await refusal(host, 6379), 'ECONNREFUSED')
  assert.equal(await refusal('127.0.0.1', 6379), 'ECONNREFUSED')

  await podman('pod', 'rm', '--force', '--time', '15', 'group')
  await startGroup(t, share, ca)
  assert.equal(await until(() => serial(ca).catch(() => false), 'it is served again'), issued)
})
