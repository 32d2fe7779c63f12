// Tables in Markdown, where and when they were measured, and their place in README.md.

import { readFile, writeFile } from 'node:fs/promises'
import { cpus, release, type } from 'node:os'

const README = new URL('README.md', import.meta.url)

export function table(head, rows) {
  const line = cells => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, column) => (column === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')
}

export const grouped = number => number.toLocaleString('en')

export function machine() {
  const [day] = new Date().toISOString().split('T')
  const [kernel] = release().split('-')
  const [{ model }] = cpus()
  return `${day}, ${cpus().length} cores (${model.trim()}), ${type()} ${kernel}, Node ${process.versions.node}`
}

// Puts a text between README.md's markers of this name.
export async function keep(name, text) {
  const readme = await readFile(README, 'utf8')
  const place = new RegExp(`(?<=<!-- ${name} -->\\n)[^]*(?=<!-- /${name} -->)`)
  await writeFile(README, readme.replace(place, () => `${text}\n`))
}
