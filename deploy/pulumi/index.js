// The group of multi.yaml as a program: a place for the certificates, the server, and its Redis.
//
//   pulumi config set azure-native:location westeurope
//   pulumi config set label roomcast                       the address: LABEL.REGION.azurecontainer.io
//   pulumi config set registry REGISTRY                    where both images are, see README.md
//   pulumi config set --secret registryPassword …
//   pulumi config set --secret publishToken …              the token that may POST to /publish
//   pulumi config set --secret jwtSecret …                 signs the tokens of viewers: openssl rand -hex 32
//   pulumi config set host rt.example.com                  optional: a name of your own, and
//   pulumi config set --secret cloudflareToken …           the token for its zone
//   pulumi up
//   pulumi stack output watch                              the command that prints a link for viewers

import * as pulumi from '@pulumi/pulumi'
import { containerinstance, resources, storage } from '@pulumi/azure-native'

const PORTS = [80, 443]
const CERTIFICATES = 'certificates'
const CERT_DIR = '/.local/share/certmagic'
// The version's image of the target `aci`, and the Redis that has been brought in.
const SERVER = 'roomcast:0.1.0-aci'
const REDIS = 'redis:7.2.14-alpine'
// Measured, see multi.yaml.
const MAX_CONNECTIONS = '3000'
const SHARE_OF_EACH = { requests: { cpu: 0.1, memoryInGB: 0.2 } }

const config = new pulumi.Config()
const label = config.require('label')
const registry = config.require('registry')
const region = new pulumi.Config('azure-native').require('location')
const address = `${label}.${region}.azurecontainer.io`
const host = config.get('host') ?? address
const server = `${registry}.azurecr.io`

/** A port of TCP. */
const port = (/** @type {number} */ port) => ({ protocol: 'TCP', port })

/**
 * A variable that nobody can read again; none, if there is no value for it.
 * @param {string} name
 * @param {pulumi.Output<string> | undefined} secureValue
 */
const secret = (name, secureValue) => (secureValue ? [{ name, secureValue }] : [])

const group = new resources.ResourceGroup('roomcast', { location: region })
const resourceGroupName = group.name

const account = new storage.StorageAccount('roomcast', {
  resourceGroupName,
  location: region,
  kind: storage.Kind.StorageV2,
  sku: { name: storage.SkuName.Standard_LRS },
  minimumTlsVersion: storage.MinimumTlsVersion.TLS1_2,
  allowBlobPublicAccess: false,
})
const share = new storage.FileShare(CERTIFICATES, {
  resourceGroupName,
  accountName: account.name,
  shareName: CERTIFICATES,
  shareQuota: 1, // GiB
})
const { keys } = storage.listStorageAccountKeysOutput({ resourceGroupName, accountName: account.name })

new containerinstance.ContainerGroup('roomcast', {
  resourceGroupName,
  location: region,
  containerGroupName: 'roomcast',
  osType: 'Linux',
  restartPolicy: 'Always',
  imageRegistryCredentials: [
    { server, username: registry, password: config.requireSecret('registryPassword') },
  ],
  // Only the server can be reached from outside.
  ipAddress: { type: 'Public', dnsNameLabel: label, ports: PORTS.map(port) },
  volumes: [{
    name: CERTIFICATES,
    azureFile: {
      shareName: share.name,
      storageAccountName: account.name,
      storageAccountKey: pulumi.secret(keys.apply(([first]) => first.value)),
    },
  }],
  containers: [
    {
      name: 'roomcast',
      image: `${server}/${SERVER}`,
      resources: SHARE_OF_EACH,
      ports: PORTS.map(port),
      environmentVariables: [
        { name: 'RTHOST', value: host },
        { name: 'ACME_CA', value: config.get('acmeCa') ?? 'production' },
        ...secret('CLOUDFLARE_DNS_API_TOKEN', config.getSecret('cloudflareToken')),
        ...secret('PUBLISH_TOKEN', config.requireSecret('publishToken')),
        ...secret('JWT_SECRET', config.requireSecret('jwtSecret')),
        { name: 'MAX_CONNECTIONS', value: MAX_CONNECTIONS },
      ],
      volumeMounts: [{ name: CERTIFICATES, mountPath: CERT_DIR }],
      livenessProbe: {
        exec: { command: ['roomcast', 'healthcheck'] },
        initialDelaySeconds: 10,
        periodSeconds: 30,
        timeoutSeconds: 5,
        failureThreshold: 3,
      },
    },
    {
      name: 'redis',
      image: `${server}/${REDIS}`,
      resources: SHARE_OF_EACH,
      command: [
        'redis-server', '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--maxmemory', '64mb',
      ],
    },
  ],
})

/** Where to point a name of your own. */
export const fqdn = address
/** Where to watch. */
export const url = `https://${host}`
/** Prints a token for a room, and the link that opens the room with it. */
export const watch = `JWT_SECRET=$(pulumi config get jwtSecret) RTHOST=${host} `
  + `docker run --rm --env JWT_SECRET --env RTHOST ${server}/${SERVER} token --room device01`
