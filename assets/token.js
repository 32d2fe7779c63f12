// The token of this page: it comes in the address, behind `#token=`, and does not stay there.

const KEPT = 'roomcast-token'

// Takes the token out of the address bar, so that it is not in a link that is shared. It is kept
// for this tab alone, so that the page can be reloaded.
export function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1))
  const token = fragment.get('token')
  if (token === null) return false
  fragment.delete('token')
  history.replaceState(null, '', `${location.pathname}${location.search}${`${fragment}` && `#${fragment}`}`)
  sessionStorage.setItem(KEPT, token)
  return true
}

export const token = () => sessionStorage.getItem(KEPT) ?? undefined
