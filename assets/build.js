// Reloads the page when the server is of another build than the one that served it.

const PAUSE = 60_000 // ms; a page that moves between instances of two builds is not reloaded all the time
const KEY = 'reloaded' // when the page was last reloaded, in this tab

let first // the build at the first join

// `build` is what the answer to a join calls `server`.
export function compare(build, reload = () => location.reload()) {
  first ??= build
  if (build === first) return
  try {
    if (Date.now() - Number(sessionStorage.getItem(KEY)) < PAUSE) return
    sessionStorage.setItem(KEY, Date.now())
  } catch {
    return // without storage, nothing would bound how often
  }
  reload()
}
