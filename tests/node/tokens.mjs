// Tokens, signed as an external issuer would sign them.

import { constants, createHmac, sign } from 'node:crypto'

export const SECRET = 'a secret of thirty-two bytes, ok'

const encode = part => Buffer.from(part).toString('base64url')
const hash = alg => `sha${alg.slice(2)}`

// How each family of algorithms signs, with a secret or a private key.
const SIGNERS = {
  HS: (alg, message, key) => createHmac(hash(alg), key).update(message).digest(),
  RS: (alg, message, key) => sign(hash(alg), message, key),
  PS: (alg, message, key) => sign(hash(alg), message, {
    key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
  }),
  ES: (alg, message, key) => sign(hash(alg), message, { key, dsaEncoding: 'ieee-p1363' }),
  Ed: (_, message, key) => sign(null, message, key),
  no: () => '',
}

export function signed(alg, key, claims) {
  const message = `${encode(JSON.stringify({ alg, typ: 'JWT' }))}.${encode(JSON.stringify(claims))}`
  return `${message}.${encode(SIGNERS[alg.slice(0, 2)](alg, Buffer.from(message), key))}`
}

export const inSeconds = seconds => Math.floor(Date.now() / 1000) + seconds

// A token for rooms that expires in this many seconds.
export const token = (rooms, seconds, claims) =>
  signed('HS256', SECRET, { rooms, exp: inSeconds(seconds), ...claims })
