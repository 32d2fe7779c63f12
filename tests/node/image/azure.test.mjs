// Runs the shell blocks of the README's section on Azure Container Instances, from the first
// command to a message in a browser. `az` and `docker` are stand-ins; the group, its CA and the
// browser are real.

import assert from 'node:assert/strict'
import { X509Certificate, createHash } from 'node:crypto'
import { once } from 'node:events'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'node:test'
import { connect } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { startBrowser, visit } from '../browser.mjs'
import { bash, standIn } from '../stand-ins.mjs'
import { run, temporaryFolder, until } from '../support.mjs'
import { startCa } from './ca.mjs'
import { startGroup, startNetwork } from './group.mjs'
import { image, podman } from './podman.mjs'

const ROOT = new URL('../../../', import.meta.url)
const PASSWORD = 'registry/password+with=signs'
const KEY = 'share/key+with=signs=='

// The shell blocks in a section of the README.
async function blocks(title) {
  const readme = await readFile(new URL('README.md', ROOT), 'utf8')
  const [, section] = readme.split(`\n### ${title}\n`)
  return [...section.split('\n### ')[0].matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block]) => block)
}

// What Azure does in this section. `az container create` starts the group.
function azure(t, start) {
  const answers = {
    'acr credential show': () => `${PASSWORD}\n`,
    'storage account keys list': () => `${KEY}\n`,
    'container create': async ({ file }) => { await start(await readFile(file, 'utf8')) },
    'container logs': () => podman('logs', 'roomcast'),
    'container exec': ({ containerName, execCommand }, input) =>
      run(t, 'podman', ['exec', '--interactive', containerName, ...execCommand.split(' ')], { env: process.env, input }),
  }
  return ({ args, input, cwd }) => {
    const words = args.slice(0, args.findIndex(arg => arg.startsWith('--'))).join(' ')
    const names = [...args.join('\n').matchAll(/^--([\w-]+)(?:\n(?!--)(.*))?$/gm)]
    const camel = name => name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase())
    const options = Object.fromEntries(names.map(([, name, value]) => [camel(name), value]))
    if (options.file) options.file = join(cwd, options.file)
    return answers[words]?.(options, input)
  }
}

// `docker` runs the image of the group on this machine, without a network.
const docker = (t, { args: [command, ...args], env }) => {
  const local = args.map(arg => arg.includes('/roomcast:') ? image(arg) : arg)
  return run(t, 'podman', [command, '--network', 'none', ...local], { env: { ...process.env, ...env } })
}

// The hash of the public key of the certificate that a host presents, by which Chromium trusts it.
async function keyHash(host, ca) {
  const socket = connect({ host: '127.0.0.1', port: 443, servername: host, ca: ca.root })
  try {
    await once(socket, 'secureConnect')
    const { publicKey } = new X509Certificate(socket.getPeerCertificate().raw)
    return createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('base64')
  } finally {
    socket.destroy()
  }
}

test('the commands of the section lead to a message in a browser', async t => {
  await startNetwork(t)
  const [ca, share, cwd] = [await startCa(t, 'ca'), await temporaryFolder(t), await temporaryFolder(t)]
  let written
  const az = azure(t, async file => {
    written = file
    await startGroup(t, parse(file).properties, { share, ca })
  })
  const { calls, env } = await standIn(t, join(cwd, 'bin'), ['az', 'docker'], call =>
    call.program === 'az' ? az({ ...call, cwd }) : docker(t, call))
  await copyFile(fileURLToPath(new URL('multi.yaml', ROOT)), join(cwd, 'multi.yaml'))
  const [create, build, start, token, publish, ...more] = await blocks('One container group on Azure')
  assert.equal(more.length, 0)

  // Each shell gets the variables of the one before.
  const keep = 'export -p >variables'
  const first = await bash(`set -a\n${create}${build}${start}${keep}`, { cwd, env })
  assert.equal(first.code, 0, first.stderr)
  assert.match(first.stdout, /Page +https:/)
  const names = calls.map(({ args }) => args.slice(0, 2).join(' '))
  for (const step of ['group create', 'acr create', 'acr run', 'acr import']) assert.ok(names.includes(step), step)
  const filled = JSON.stringify(parse(written))
  // No placeholder in capitals is left; names of variables and of the protocol remain.
  assert.doesNotMatch(filled, /(?<!"name"|"protocol"):"[A-Z_]+"|REGISTRY|STORAGE|LABEL|REGION/)
  for (const secret of [PASSWORD, KEY]) assert.ok(filled.includes(JSON.stringify(secret)), secret)

  const linked = await bash(`. ./variables\n${token}`, { cwd, env })
  assert.equal(linked.code, 0, linked.stderr)
  // podman may write warnings of its own beside it.
  const link = new URL(linked.stderr.match(/^https:.*$/m)[0])
  const room = link.searchParams.get('room')
  const trusted = await until(() => keyHash(link.hostname, ca).catch(() => false), 'there is a certificate')
  const browser = await startBrowser(t, [
    `--host-resolver-rules=MAP ${link.hostname} 127.0.0.1`, `--ignore-certificate-errors-spki-list=${trusted}`,
  ])
  const { page, problems } = await visit(t, browser, link.href)
  await page.locator(`[data-room="${room}"][data-joined=true]`).waitFor()

  // Types what the comment in the block says.
  const input = publish.match(/# there: (.*)$/m)[1]
  await writeFile(join(cwd, '.curlrc'), `resolve = ${link.hostname}:443:127.0.0.1\n`)
  await writeFile(join(cwd, 'root.pem'), ca.root)
  const published = await bash(`. ./variables\n${publish}`, {
    cwd, env: { ...env, HOME: cwd, CURL_CA_BUNDLE: join(cwd, 'root.pem') }, input: `${input}\n`,
  })
  assert.equal(published.code, 0, published.stderr)
  assert.match(published.stdout, /^1\n\{"subscribers":1\}/)
  await page.waitForFunction(() => document.body.innerText.match(/hello/g)?.length === 2)
  assert.deepEqual(problems, [])
})
