// Clients of a broker, each with the same three functions: publish, subscribe and psubscribe. A
// listener gets channel and payload.

import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { run, start, until } from './support.mjs'

function redisCli(t, address) {
  const to = (...command) => ['-u', `redis://${address}`, ...command]
  const listen = async (command, name, listener) => {
    const cli = start(t, 'redis-cli', to('--csv', command, name))
    await until(() => cli.stdout.includes(`"${command}"`), 'redis-cli has subscribed')
    const line = () => cli.stdout.match(/^"p?message",.*"$/m)?.[0]
    until(line, 'redis-cli has a message').then(csv => listener(...JSON.parse(`[${csv}]`).slice(-2)))
  }
  return {
    publish: async (...message) => Number((await run(t, 'redis-cli', to('publish', ...message))).stdout),
    subscribe: (channel, listener) => listen('subscribe', channel, listener),
    psubscribe: (pattern, listener) => listen('psubscribe', pattern, listener),
  }
}

async function nodeRedis(t, address) {
  const open = async () => {
    const client = createClient({ url: `redis://${address}` })
    t.after(() => client.destroy())
    return client.connect()
  }
  const [publisher, subscriber] = [await open(), await open()]
  const turned = listener => (payload, channel) => listener(channel, payload)
  return {
    publish: (...message) => publisher.publish(...message),
    subscribe: (channel, listener) => subscriber.subscribe(channel, turned(listener)),
    psubscribe: (pattern, listener) => subscriber.pSubscribe(pattern, turned(listener)),
  }
}

function ioredis(t, address) {
  const open = () => {
    const client = new Redis(`redis://${address}`)
    t.after(() => client.disconnect())
    return client
  }
  const [publisher, subscriber] = [open(), open()]
  return {
    publish: (...message) => publisher.publish(...message),
    subscribe: (channel, listener) => subscriber.on('message', listener).subscribe(channel),
    psubscribe: (pattern, listener) => (
      subscriber.on('pmessage', (_, ...message) => listener(...message)).psubscribe(pattern)),
  }
}

export const BROKER_CLIENTS = { 'redis-cli': redisCli, 'node-redis': nodeRedis, ioredis }
