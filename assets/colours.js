// The look of a room's line: eight colours, then the same eight dashed, then dotted.

const COLOURS = 8 // --line-0 … --line-7 in style.css
const STROKES = [
  { css: 'solid', dash: [] },
  { css: 'dashed', dash: [8, 5] },
  { css: 'dotted', dash: [2, 5] },
]

export const variable = index => `--line-${index % COLOURS}`

export const stroke = index => STROKES[Math.floor(index / COLOURS) % STROKES.length]

// For the style of an element that shows a swatch of the line.
export const swatch = index => ({ '--colour': `var(${variable(index)})`, '--stroke': stroke(index).css })
