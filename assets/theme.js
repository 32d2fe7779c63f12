// Light or dark: as the system says, unless somebody chose here.

const system = matchMedia('(prefers-color-scheme: dark)')
let chosen
try {
  chosen = localStorage.getItem('theme')
} catch {
  // Storage may be forbidden; then the choice lasts as long as the page.
}

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
