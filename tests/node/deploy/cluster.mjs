// The parts of a Kubernetes API that Helm and kubectl use. It stores the objects that it gets, and
// deployments are ready at once. Nothing runs, and nothing is validated.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { buffer } from 'node:stream/consumers'
import { parse } from 'yaml'

const KINDS = {
  v1: { secrets: 'Secret', services: 'Service', pods: 'Pod', serviceaccounts: 'ServiceAccount' },
  'apps/v1': { deployments: 'Deployment', replicasets: 'ReplicaSet' },
  'policy/v1': { poddisruptionbudgets: 'PodDisruptionBudget' },
  'autoscaling/v2': { horizontalpodautoscalers: 'HorizontalPodAutoscaler' },
  'networking.k8s.io/v1': { ingresses: 'Ingress', networkpolicies: 'NetworkPolicy' },
}
// The content type of Helm's release records: they are accepted without being parsed.
const OPAQUE = 'application/vnd.kubernetes.protobuf'
const GROUPS = Object.keys(KINDS).filter(version => version !== 'v1')
const root = version => version === 'v1' ? '/api/v1' : `/apis/${version}`

const status = (code, reason) =>
  ({ code, body: { kind: 'Status', apiVersion: 'v1', status: 'Failure', message: reason, reason, code } })

// API discovery: the kinds of objects.
const DISCOVERY = {
  '/version': { major: '1', minor: '36', gitVersion: 'v1.36.0' },
  '/api': { kind: 'APIVersions', versions: ['v1'] },
  '/apis': { kind: 'APIGroupList', apiVersion: 'v1', groups: GROUPS.map(groupVersion => {
    const [name, version] = groupVersion.split('/')
    return { name, versions: [{ groupVersion, version }], preferredVersion: { groupVersion, version } }
  }) },
  ...Object.fromEntries(Object.entries(KINDS).map(([version, kinds]) => [root(version), {
    kind: 'APIResourceList',
    groupVersion: version,
    resources: Object.entries(kinds).map(([name, kind]) => ({
      name, kind, singularName: kind.toLowerCase(), namespaced: true,
      verbs: ['create', 'delete', 'get', 'list', 'patch', 'update', 'watch'],
    })),
  }])),
  // Schemas that say only that the server validates fields itself.
  '/openapi/v3': { paths: Object.fromEntries(Object.keys(KINDS).map(version =>
    [root(version).slice(1), { serverRelativeURL: `/openapi/v3${root(version)}` }])) },
  ...Object.fromEntries(Object.entries(KINDS).map(([version, kinds]) => [`/openapi/v3${root(version)}`, {
    openapi: '3.0.0',
    info: { title: 'Kubernetes', version: 'v1.36.0' },
    paths: Object.fromEntries(Object.entries(kinds).map(([name, kind]) => {
      const [short, group = ''] = version.split('/').reverse()
      return [`${root(version)}/namespaces/{namespace}/${name}/{name}`, { patch: {
        parameters: [{ name: 'fieldValidation', in: 'query', schema: { type: 'string' } }],
        'x-kubernetes-group-version-kind': { group, version: short, kind },
        responses: {},
      } }]
    })),
  }])),
}

const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value)
const merged = (old, patch) => isObject(old) && isObject(patch)
  ? Object.fromEntries(Object.keys({ ...old, ...patch }).map(key =>
    [key, key in patch ? merged(old[key], patch[key]) : old[key]]))
  : patch

// Whether labels match a selector such as `name=roomcast,status in (deployed)`.
const fits = (labels = {}, selector) => (selector ?? '').split(/,(?![^(]*\))/).filter(Boolean).every(rule => {
  const [, name, values] = rule.match(/^(\S+?)(?:==?| in )\(?(.*?)\)?$/)
  return values.split(',').includes(labels[name])
})

// What controllers would add to an object.
const WITH_STATUS = {
  Service: object => ({ ...object, spec: { clusterIP: '10.0.0.1', ...object.spec } }),
  PodDisruptionBudget: object => ({ ...object, status: { observedGeneration: 1, currentHealthy: 1, desiredHealthy: 0 } }),
  ...Object.fromEntries(['Deployment', 'ReplicaSet'].map(kind => [kind, object => {
    const n = object.spec.replicas ?? 1
    return { ...object, status: {
      observedGeneration: 1, replicas: n, updatedReplicas: n, readyReplicas: n, availableReplicas: n,
      fullyLabeledReplicas: n,
      conditions: [
        { type: 'Available', status: 'True' },
        { type: 'Progressing', status: 'True', reason: 'NewReplicaSetAvailable' },
      ],
    } }
  }])),
}

class Store {
  objects = new Map() // by path
  #version = 0

  put(path, object) {
    const metadata = {
      uid: randomUUID(), creationTimestamp: '2026-01-01T00:00:00Z', generation: 1, ...object.metadata,
      resourceVersion: `${++this.#version}`,
    }
    const kept = (WITH_STATUS[object.kind] ?? (same => same))({ ...object, metadata })
    this.objects.set(path, kept)
    if (object.kind === 'Deployment') {
      const owner = { apiVersion: 'apps/v1', kind: 'Deployment', name: metadata.name, uid: metadata.uid, controller: true }
      this.put(`${path.replace('/deployments/', '/replicasets/')}-1`, {
        apiVersion: 'apps/v1', kind: 'ReplicaSet', spec: object.spec,
        metadata: {
          name: `${metadata.name}-1`, namespace: metadata.namespace, ownerReferences: [owner],
          labels: object.spec.template.metadata.labels,
        },
      })
    }
    return kept
  }

  list(path, selector) {
    const [, version, name] = path.match(/^\/(?:api|apis)\/(.+)\/namespaces\/[^/]+\/(\w+)$/)
    const inside = [...this.objects].filter(([own]) => own.startsWith(`${path}/`)).map(([, object]) => object)
    return {
      kind: `${KINDS[version][name]}List`,
      apiVersion: version,
      metadata: { resourceVersion: `${this.#version}` },
      items: inside.filter(({ metadata }) => fits(metadata.labels, selector)),
    }
  }

  // Answers a request for one object or, without a name, for all objects of a kind.
  answer(method, path, name, query, object) {
    const there = this.objects.get(path)
    switch (method) {
      case 'GET':
        if (!name) return { body: this.list(path, query.get('labelSelector')) }
        return there ? { body: there } : status(404, 'NotFound')
      case 'POST': {
        const own = `${path}/${object.metadata.name}`
        return this.objects.has(own) ? status(409, 'AlreadyExists') : { code: 201, body: this.put(own, object) }
      }
      case 'PUT': return { body: this.put(path, object) }
      case 'PATCH': return { body: this.put(path, merged(there, object)) }
      case 'DELETE':
        this.objects.delete(path)
        return { body: { kind: 'Status', apiVersion: 'v1', status: 'Success' } }
      default: return status(405, 'MethodNotAllowed')
    }
  }
}

// Starts a cluster, and writes the kubeconfig for clients.
export async function startCluster(t, kubeconfig) {
  const store = new Store()
  const server = createServer(async (request, response) => {
    const { pathname, searchParams: query } = new URL(request.url, 'http://cluster')
    const body = await buffer(request)
    const [, , kind, name] = pathname.match(/^\/apis?\/(?:[^/]+\/)?(v\d)\/namespaces\/[^/]+\/([^/]+)(?:\/(.+))?$/) ?? []
    const type = request.headers['content-type']
    if (type === OPAQUE) response.writeHead(200, { 'content-type': type }).end(body)
    else if (query.has('sendInitialEvents')) send(response, status(422, 'Invalid')) // makes clients list instead
    else if (query.get('watch') === 'true') response.writeHead(200, { 'content-type': 'application/json' }).flushHeaders()
    else if (DISCOVERY[pathname]) send(response, { body: DISCOVERY[pathname] })
    else if (!kind) send(response, status(404, 'NotFound'))
    else send(response, store.answer(request.method, pathname, name, query, parse(`${body}`)))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => (server.close(), server.closeAllConnections()))
  const named = content => [{ name: 'test', ...content }]
  await writeFile(kubeconfig, JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'test',
    clusters: named({ cluster: { server: `http://127.0.0.1:${server.address().port}` } }),
    users: named({ user: {} }),
    contexts: named({ context: { cluster: 'test', user: 'test' } }),
  }))
  return { get: path => store.objects.get(path) }
}

const send = (response, { code = 200, body }) =>
  response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(body))
