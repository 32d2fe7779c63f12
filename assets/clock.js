// The server's clock, as far as messages tell it: ages and charts are right even where ours is wrong.

let ahead // ms, server minus ours; the fastest message since the last connect tells best
let outdated = true // until the first one of this connection

export function heard(at) {
  const now = at - Date.now()
  if (outdated || now > ahead) ahead = now
  outdated = false
}

export const forget = () => { outdated = true }

export const now = () => Date.now() + (ahead ?? 0)
