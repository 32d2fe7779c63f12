// multi.yaml: server and Redis in one group, as a pod, with a folder in place of the file share.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as dial } from 'node:net'
import test from 'node:test'
import { connect as dialTls } from 'node:tls'
import { temporaryFolder, until } from '../support.mjs'
import { startCa } from './ca.mjs'
import { startGroup, startNetwork } from './group.mjs'
import { podman, yaml } from './podman.mjs'

const HOST = 'rt.example.com'
const { properties: group } = await yaml('multi.yaml')

// The serial number of the certificate that the host presents; it must chain to the CA's root.
async function serial(ca) {
  const socket = dialTls({ host: '127.0.0.1', port: 443, servername: HOST, ca: ca.root })
  try {
    await once(socket, 'secureConnect')
    return socket.getPeerCertificate().serialNumber
  } finally {
    socket.destroy()
  }
}

// The error code of a connection from outside, or undefined if it succeeds.
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

test('a group stores its certificate on the share, and does not expose its Redis', async t => {
  await startNetwork(t)
  const ca = await startCa(t, 'ca')
  const share = await temporaryFolder(t)
  // Without DNS credentials the CA validates by TLS-ALPN-01.
  const options = { share, ca, env: { RTHOST: HOST, CLOUDFLARE_DNS_API_TOKEN: undefined } }

  const { redis } = await startGroup(t, group, options)
  const issued = await until(() => serial(ca).catch(() => false), 'there is a certificate')
  assert.equal(await redis.exec('redis-cli', 'publish', 'device01', 'hello'), '1')

  const host = await address()
  assert.equal(await refusal(host, 443), undefined)
  assert.equal(await refusal(host, 6379), 'ECONNREFUSED')
  assert.equal(await refusal('127.0.0.1', 6379), 'ECONNREFUSED')

  await podman('pod', 'rm', '--force', '--time', '15', 'group')
  await startGroup(t, group, options)
  assert.equal(await until(() => serial(ca).catch(() => false), 'it is served again'), issued)
})
