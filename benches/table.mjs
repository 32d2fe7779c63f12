// Tables in Markdown, and where and when they were measured.

import { availableParallelism, release, type } from 'node:os'

export function table(head, rows) {
  const line = cells => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, column) => (column === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')
}

export const grouped = number => number.toLocaleString('en')

export function machine() {
  const [day] = new Date().toISOString().split('T')
  return `${day}, ${availableParallelism()} cores, ${type()} ${release().split(".", 2).join(".")}, Node ${process.versions.node}`
}
