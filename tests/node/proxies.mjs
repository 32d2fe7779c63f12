// The proxies of deploy/proxies, as they are there but for addresses, ports and the certificate.

import { readFile, writeFile } from 'node:fs/promises'
import { freePort, run, start, temporaryFolder, until } from './support.mjs'

const HOST = 'rt.example.com'
const CONFIGURATIONS = new URL('../../deploy/proxies/', import.meta.url)

// A self-signed certificate for the name in the configurations.
async function makeCertificate(owner, folder) {
  const names = `subjectAltName=DNS:${HOST},IP:127.0.0.1`
  await run(owner, 'openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-subj', `/CN=${HOST}`, '-addext', names, '-keyout', `${folder}/key.pem`, '-out', `${folder}/cert.pem`,
  ])
  const parts = ['cert', 'key'].map(name => readFile(`${folder}/${name}.pem`))
  await writeFile(`${folder}/cert-and-key.pem`, Buffer.concat(await Promise.all(parts)))
}

// A configuration for these ports of instances: with other addresses and files, all else is as it is.
async function configuration(file, { folder, port, instances, changes = [] }) {
  let text = await readFile(new URL(file, CONFIGURATIONS), 'utf8')
  instances.forEach((instance, i) => {
    for (const [separator, as] of [[':8080', ':'], [', port_value: 8080', ', port_value: ']]) {
      text = text.replaceAll(`roomcast-${i + 1}${separator}`, `127.0.0.1${as}${instance}`)
    }
  })
  text = text.replaceAll('/etc/ssl/roomcast', folder)
  for (const [from, to] of changes) {
    if (!text.includes(from)) throw new Error(`${file} has no ${from}`)
    text = text.replace(from, to)
  }
  const path = `${folder}/${file}`
  await writeFile(path, text)
  return { path, port }
}

const TEMPORARY = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']

// Starts each proxy: its program and arguments, after its configuration is written.
export const PROXIES = {
  nginx: async options => {
    const { folder, port } = options
    const changes = [['listen 443', `listen 127.0.0.1:${port}`], ...options.changes ?? []]
    const { path } = await configuration('nginx.conf', { ...options, changes })
    const paths = TEMPORARY.map(name => `${name}_temp_path ${folder}/${name};`).join(' ')
    const whole = `daemon off; master_process off; pid ${folder}/pid; events {}
      http { access_log off; ${paths} include ${path}; }`
    await writeFile(`${folder}/whole.conf`, whole)
    return ['nginx', ['-p', folder, '-c', `${folder}/whole.conf`, '-e', 'stderr']]
  },
  Caddy: async options => {
    const { folder, port } = options
    const tls = `tls ${folder}/cert.pem ${folder}/key.pem\n`
    const head = `{\n\tadmin off\n\tauto_https disable_redirects\n}\n`
    const changes = [
      [`${HOST} {`, `${head}https://127.0.0.1:${port}, https://${HOST}:${port} {\n\tbind 127.0.0.1\n\t${tls}`],
      ...options.changes ?? [],
    ]
    const { path } = await configuration('Caddyfile', { ...options, changes })
    return ['caddy', ['run', '--config', path, '--adapter', 'caddyfile'], { HOME: folder }]
  },
  HAProxy: async options => {
    const changes = [['bind :443', `bind 127.0.0.1:${options.port}`], ...options.changes ?? []]
    const { path } = await configuration('haproxy.cfg', { ...options, changes })
    return ['haproxy', ['-db', '-f', path]]
  },
  Envoy: async options => {
    const changes = [
      ['address: 0.0.0.0, port_value: 443', `address: 127.0.0.1, port_value: ${options.port}`],
      ...options.changes ?? [],
    ]
    const { path } = await configuration('envoy.yaml', { ...options, changes })
    return [process.env.ENVOY ?? 'envoy', ['-c', path, '--log-level', 'warn', '--use-dynamic-base-id', '--concurrency', '1']]
  },
}

// Starts a proxy before the instances, which listen at these ports, and waits until it answers for them.
export async function startProxy(owner, name, instances, changes, health = '/livez') {
  const [folder, port] = [await temporaryFolder(owner), await freePort()]
  await makeCertificate(owner, folder)
  const [program, args, env] = await PROXIES[name]({ folder, port, instances, changes })
  const proxy = start(owner, program, args, { env })
  const url = `https://127.0.0.1:${port}`
  const serves = () => {
    if (proxy.code !== undefined) throw new Error(`${name} ended: ${proxy.stderr.slice(-2000)}`)
    return fetch(`${url}${health}`).then(({ ok }) => ok, () => false)
  }
  await until(serves, `${name} serves`)
  return { url, port, host: `${HOST}:${port}`, proxy }
}
