// A chart registry under an Azure host name: docker-registry, and a proxy that leads there.

import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort, start, temporaryFolder, until } from '../support.mjs'

// Starts it, and returns the variables that make programs use it under that host name.
export async function startRegistry(t, name) {
  const folder = await temporaryFolder(t)
  const file = name => join(folder, name)
  await promisify(execFile)('openssl', [
    'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${name}`,
    '-addext', `subjectAltName=DNS:${name}`, '-keyout', file('key.pem'), '-out', file('cert.pem'),
  ])
  const port = await freePort()
  // JSON is valid YAML.
  await writeFile(file('config.yml'), JSON.stringify({
    version: '0.1',
    log: { level: 'warn' },
    storage: { filesystem: { rootdirectory: file('charts') } },
    http: { addr: `127.0.0.1:${port}`, tls: { certificate: file('cert.pem'), key: file('key.pem') } },
  }))
  start(t, 'docker-registry', ['serve', file('config.yml')])
  const proxy = createServer().on('connect', (_, near) => {
    const far = connect(port, '127.0.0.1', () => near.write('HTTP/1.1 200 OK\r\n\r\n'))
    near.pipe(far).pipe(near)
    for (const end of [near, far]) end.on('error', () => (near.destroy(), far.destroy()))
  })
  await once(proxy.listen(0, '127.0.0.1'), 'listening')
  t.after(() => (proxy.close(), proxy.closeAllConnections()))
  await until(() => answers(port), 'the registry answers')
  return { HTTPS_PROXY: `http://127.0.0.1:${proxy.address().port}`, SSL_CERT_FILE: file('cert.pem') }
}

const answers = port => new Promise(resolve => {
  const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false))
  socket.on('close', () => resolve(false)).end()
})
