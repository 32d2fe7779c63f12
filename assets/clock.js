// The server's clock, as far as messages tell it: ages and charts are right even where ours is wrong.

let ahead // ms, server minus ours; the fastest message since the last connect tells best

export function heard(at) {
  const now = at - Date.now()
  if (ahead === undefined || now > ahead) ahead = now
}

export const forget = () => { ahead = undefined }

export const now = () => Date.now() + (ahead ?? 0)
