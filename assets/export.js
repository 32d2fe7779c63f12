// Messages as files: NDJSON, a JSON object a line, or CSV for spreadsheets.

// One for each room of an entry: an outage has many.
const rows = ({ rooms, at, text, gap }) => rooms.map(room => ({
  room: room.name,
  at: new Date(at).toISOString(),
  ...(gap ? { gap: gap.reason } : { payload: text }),
}))

export const ndjson = entries => entries.flatMap(rows).map(row => `${JSON.stringify(row)}\n`).join('')

// A spreadsheet takes a cell that begins with one of these for a formula.
const FORMULA = /^[=+\-@\t\r]/
const NUMBER = /^[+-]?\d+(\.\d+)?$/

function cell(text = '') {
  const safe = FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text
  return `"${safe.replaceAll('"', '""')}"`
}

export const csv = entries => [
  'room,at,payload,gap\r\n',
  ...entries.flatMap(rows).map(({ room, at, payload, gap }) => `${[room, at, payload, gap].map(cell).join(',')}\r\n`),
].join('')

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }))
  const anchor = Object.assign(document.createElement('a'), { href: url, download: name })
  anchor.click()
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}
