// Chromium, and pages in it that collect their errors.

import { chromium } from 'playwright-core'

const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
]

// What Chromium logs about a server that is down or draining.
const ABSENCE = /net::ERR_CONNECTION_|WebSocket connection to .* failed|status of 503/

export async function startBrowser(owner, flags = []) {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: [...FLAGS, ...flags] })
  owner.after(() => browser.close())
  return browser
}

// Opens a URL as a new visitor. The problems are uncaught errors and all errors on the console,
// violations of the Content-Security-Policy among them.
export async function visit(t, browser, url) {
  const visitor = await browser.newContext()
  t.after(() => visitor.close())
  const page = await visitor.newPage()
  const problems = []
  page.on('pageerror', error => problems.push(`${error}`))
  page.on('console', message => message.type() === 'error' && problems.push(message.text()))
  await page.goto(url)
  return { page, problems }
}

export const besidesAbsence = problems => problems.filter(problem => !ABSENCE.test(problem))
