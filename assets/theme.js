// Light or dark: as the link says, or as the viewer chose here, or as the system says.

import { link } from './link.js'

const system = matchMedia('(prefers-color-scheme: dark)')
let chosen
try {
  chosen = localStorage.getItem('theme')
} catch {
  // Storage may be forbidden; then the choice lasts as long as the page.
}

if (link.theme) chosen = link.theme

const ofSystem = () => system.matches ? 'dark' : 'light'

const apply = () => {
  document.documentElement.dataset.theme = ['light', 'dark'].includes(chosen) ? chosen : ofSystem()
}

export function toggleTheme() {
  chosen = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'
  apply()
  try {
    // Choosing what the system says anyway means following it again.
    if (chosen === ofSystem()) localStorage.removeItem('theme')
    else localStorage.setItem('theme', chosen)
  } catch {
    // As above.
  }
}

system.addEventListener('change', apply)
apply()
