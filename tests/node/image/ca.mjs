// Pebble, Let's Encrypt's CA for tests. It validates all hosts at ports 80 and 443 of this machine.

import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { get } from 'node:https'
import { text } from 'node:stream/consumers'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { start, temporaryFolder, until } from '../support.mjs'

const LOCAL = '127.0.0.1'
const [PORT, MANAGEMENT, DNS, ADMIN] = [14_000, 15_000, 8053, 8055]

// Starts the CA under a host name, which its clients must be able to resolve.
export async function startCa(t, name) {
  const folder = await temporaryFolder(t)
  const file = name => join(folder, name)
  await promisify(execFile)('openssl', [
    'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${name}`,
    '-addext', `subjectAltName=DNS:${name},IP:${LOCAL}`, '-addext', 'basicConstraints=critical,CA:FALSE',
    '-keyout', file('key.pem'), '-out', file('root.pem'),
  ])
  await writeFile(file('pebble.json'), JSON.stringify({ pebble: {
    listenAddress: `0.0.0.0:${PORT}`,
    managementListenAddress: `${LOCAL}:${MANAGEMENT}`,
    certificate: file('root.pem'),
    privateKey: file('key.pem'),
    httpPort: 80,
    tlsPort: 443,
    certificateValidityPeriod: 30 * 24 * 3600, // s
  } }))
  start(t, 'pebble-challtestsrv', [
    '-dns01', `${LOCAL}:${DNS}`, '-management', `${LOCAL}:${ADMIN}`, '-defaultIPv4', LOCAL,
    '-defaultIPv6', '', '-http01', '', '-https01', '', '-tlsalpn01', '',
  ])
  start(t, 'pebble', ['-config', file('pebble.json'), '-dnsserver', `${LOCAL}:${DNS}`], {
    env: { PEBBLE_VA_NOSLEEP: '1', PEBBLE_WFE_NONCEREJECT: '0' },
  })
  const trust = await readFile(file('root.pem'))
  const root = () => new Promise((resolve, reject) => {
    const url = `https://${LOCAL}:${MANAGEMENT}/roots/0`
    get(url, { ca: trust }, answer => text(answer).then(resolve, reject)).on('error', reject)
  })
  // The root of the certificates that it issues, as soon as it runs.
  const issued = await until(() => root().catch(() => false), 'Pebble answers')
  return { directory: `https://${name}:${PORT}/dir`, trust: file('root.pem'), root: issued }
}
