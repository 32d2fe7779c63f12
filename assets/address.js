// Which room names are allowed, and the page's address as the place where they are kept.

export const MOST_ROOMS = 256
const MOST_BYTES = 256

// What is wrong with a room name, for people; nothing if it is right.
export function fault(name) {
  const bytes = new TextEncoder().encode(name).length
  if (bytes === 0) return 'A room needs a name.'
  if (bytes > MOST_BYTES) return `A room name has at most ${MOST_BYTES} bytes, this one has ${bytes}.`
  if (/\p{Cc}/u.test(name)) return 'A room name has no control characters.'
}

export const readRooms = () => new URLSearchParams(location.search).getAll('room')

// Replaces the address, so that the link can be shared without filling the way back.
export function writeRooms(names) {
  const query = new URLSearchParams(location.search)
  query.delete('room')
  for (const name of names) query.append('room', name)
  history.replaceState(null, '', `${location.pathname}${`${query}` && `?${query}`}${location.hash}`)
}
