// deploy/azure-pipelines.yml: its shell scripts, run as Azure's agents would. Helm, kubectl and the
// registry are real; `az`, `docker` and `kubelogin` are stand-ins, and the cluster only stores
// objects.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { readFile, readdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import test, { describe } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { bash, standIn } from '../stand-ins.mjs'
import { temporaryFolder } from '../support.mjs'
import { startCluster } from './cluster.mjs'
import { startRegistry } from './registry.mjs'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const HELMS = { 3: process.env.HELM3, 4: process.env.HELM4 }
const COMMIT = '0123456789abcdef0123456789abcdef01234567'
const DIGEST = `sha256:${'5'.repeat(64)}`
const IMAGE = 'example.azurecr.io/roomcast'
const read = path => readFile(join(ROOT, path), 'utf8')

const pipeline = parse(await read('deploy/azure-pipelines.yml'))
const [environmentsParameter] = pipeline.parameters
const [build, each] = pipeline.stages
const publish = build.jobs.find(({ job }) => job === 'publish')
const [deployment] = Object.values(each)[0][0].jobs

// The shell script of a step, if it has one.
const body = ({ script, inputs = {} }) => script ?? inputs.script ?? inputs.inlineScript
const shells = steps => steps.filter(body)
const deploySteps = deployment.strategy.runOnce.deploy.steps

// The environment of a step, with its variables expanded as an agent does.
function variables(step, job, environment, folders) {
  const known = {
    ...pipeline.variables, ...job.variables, registry: 'example',
    'Build.BuildId': '7', 'Build.SourceVersion': COMMIT, ...folders,
  }
  const expand = text => {
    const next = `${text}`
      .replace(/\$\{\{ environment\.(\w+) \}\}/g, (_, key) => environment[key])
      .replace(/\$\(([\w.]+)\)/g, (macro, name) => known[name] ?? assert.fail(`${macro} is unknown`))
    return next === text ? next : expand(next)
  }
  return Object.fromEntries(Object.entries(step.env ?? {}).map(([name, value]) => [name, expand(value)]))
}

describe('the shell scripts', () => {
  const all = [...build.jobs.flatMap(job => shells(job.steps)), ...shells(deploySteps)]

  for (const step of all) {
    test(`of “${step.displayName}” pass bash -n and shellcheck`, () => {
      const input = body(step)
      for (const [program, ...args] of [['bash', '-n'], ['shellcheck', '--shell', 'bash', '-']]) {
        const { status, stdout, stderr } = spawnSync(program, args, { input, encoding: 'utf8' })
        assert.equal(status, 0, `${program}: ${stdout}${stderr}`)
      }
      // Values must come as environment variables: expanded in the text, they would be executed.
      for (const name of Object.keys(pipeline.variables)) assert.ok(!input.includes(`$(${name})`), name)
      assert.doesNotMatch(input, /\$\{\{|\$\((Build|Pipeline|System)\./)
    })
  }

  test('stop the job at the first failure', () => {
    for (const step of [...publish.steps, ...deploySteps]) {
      assert.equal(step.continueOnError, undefined)
      assert.equal(step.condition, undefined)
    }
    for (const step of [...shells(publish.steps), ...shells(deploySteps)]) assert.match(body(step), /^set -euo pipefail\n/)
  })
})

// An agent for one job, with a version of Helm. `docker` overrides the output of the stand-in.
async function startAgent(t, helm, docker = () => undefined) {
  const cwd = await temporaryFolder(t)
  const kubeconfig = join(cwd, 'kubeconfig')
  const cluster = await startCluster(t, kubeconfig)
  const answers = {
    docker: ({ args }) => docker(args) ?? (args[1] === 'inspect' ? `other/name@sha256:0\n${IMAGE}@${DIGEST}\n` : ''),
    az: () => '', kubelogin: () => '',
  }
  const bin = join(cwd, 'bin')
  const { calls, env } = await standIn(t, bin, Object.keys(answers), call => answers[call.program](call))
  await symlink(HELMS[helm], join(bin, 'helm'))
  await symlink(join(ROOT, 'deploy'), join(cwd, 'deploy'))
  const run = (step, own) => bash(body(step), {
    cwd, env: { ...env, ...registry, HOME: cwd, KUBECONFIG: kubeconfig, ...own },
  })
  return { calls, cluster, run }
}

// Runs the steps of a job, one after the other, until one fails.
async function runSteps(agent, steps, job, environment, release) {
  const folders = { 'Build.ArtifactStagingDirectory': release, 'Pipeline.Workspace': join(release, '..') }
  for (const step of shells(steps)) {
    const own = variables(step, job, environment, folders)
    if ('RELEASE' in own) own.RELEASE = release
    const { code, stdout, stderr } = await agent.run(step, own)
    if (code !== 0) return `${step.displayName}: ${stdout}${stderr}`
  }
}

const registry = await startRegistry(test, 'example.azurecr.io')
const words = calls => calls.map(({ program, args }) => [program, ...args].join(' '))

for (const helm of Object.keys(HELMS)) {
  test(`with Helm ${helm}, the built image is deployed to QA and production`, async t => {
    const release = await temporaryFolder(t)
    const builder = await startAgent(t, helm)
    assert.equal(await runSteps(builder, publish.steps, publish, {}, release), undefined)
    const done = words(builder.calls)
    const order = [
      /^docker build --tag \S+:0123456789abcdef/, /^docker run .* fs .*Cargo\.lock$/, /^docker run .* image /,
      /^az acr login --name example$/, /^docker push \S+:0123456789abcdef/, /^docker image inspect /,
    ]
    assert.equal(done.length, order.length, done.join('\n'))
    order.forEach((step, i) => assert.match(done[i], step))
    for (const scan of done.filter(line => line.startsWith('docker run'))) {
      for (const option of ['@sha256:', '--severity HIGH,CRITICAL', '--ignore-unfixed', '--exit-code 1']) {
        assert.ok(scan.includes(option), `${option}: ${scan}`)
      }
    }
    const names = environmentsParameter.default.map(({ name }) => name)
    assert.deepEqual((await readdir(release)).sort(), [...names.map(name => `${name}.yaml`), 'release.env'].sort())

    for (const environment of environmentsParameter.default) {
      const agent = await startAgent(t, helm)
      assert.equal(await runSteps(agent, deploySteps, deployment, environment, release), undefined)
      assert.deepEqual(words(agent.calls), [
        `az aks get-credentials --resource-group roomcast --name ${environment.cluster} --overwrite-existing`,
        'kubelogin convert-kubeconfig --login azurecli',
        'az acr login --name example',
      ])
      const { spec } = agent.cluster.get('/apis/apps/v1/namespaces/roomcast/deployments/roomcast')
      const values = parse(await read(`deploy/environments/${environment.name}.yaml`))
      const [container] = spec.template.spec.containers
      assert.equal(container.image, `${IMAGE}:${COMMIT}@${DIGEST}`)
      assert.equal(spec.replicas, values.replicas)
      const setting = name => container.env.find(variable => variable.name === name)?.value
      for (const [name, value] of Object.entries(values.settings)) assert.equal(setting(name), value)
      assert.equal(container.envFrom[0].secretRef.name, 'roomcast')
    }
  })
}

test('an image with a fixable vulnerability is not pushed', async t => {
  const release = await temporaryFolder(t)
  for (const kind of ['fs', 'image']) {
    const builder = await startAgent(t, 4, args => args.includes(kind) && args[0] === 'run' ? { code: 1 } : undefined)
    assert.match(await runSteps(builder, publish.steps, publish, {}, release), /^Scan it/)
    assert.ok(!words(builder.calls).some(line => line.startsWith('docker push')))
    assert.deepEqual(await readdir(release), [])
  }
})

test('an image without a digest in the registry is not deployed', async t => {
  const release = await temporaryFolder(t)
  const builder = await startAgent(t, 4, args => args[1] === 'inspect' ? 'other/name@sha256:0\n' : undefined)
  assert.match(await runSteps(builder, publish.steps, publish, {}, release), /no digest/)
  assert.deepEqual(await readdir(release), [])
})

test('Helm is pinned to the tested version', () => {
  const version = execFileSync(HELMS[4], ['version', '--template', '{{.Version}}'], { encoding: 'utf8' })
  assert.equal(version, `v${pipeline.variables.helm}`)
  for (const steps of [publish.steps, deploySteps]) {
    const [install] = steps.filter(({ task }) => task === 'HelmInstaller@1')
    assert.equal(install.inputs.helmVersionToInstall, '$(helm)')
    assert.ok(steps.indexOf(install) < steps.findIndex(step => body(step)?.includes('helm ')))
  }
})
