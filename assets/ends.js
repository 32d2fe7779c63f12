// Where the names at the ends of a chart's lines stand.

// The tops of boxes of one height, between 0 and `space`: none over another, each as near to the middle
// that it wants as the others let it. If there is no room for all, they come closer.
export function spread(wanted, height, space) {
  const step = Math.min(height, space / wanted.length)
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b])
  const blocks = [] // boxes that touch each other, from the top; `sum` of where each wants the block to begin
  for (const i of order) {
    let block = { boxes: [i], sum: wanted[i] - step / 2 }
    while (blocks.length > 0 && top(blocks.at(-1), step, space) + blocks.at(-1).boxes.length * step > top(block, step, space)) {
      block = join(blocks.pop(), block, step)
    }
    blocks.push(block)
  }
  const tops = []
  for (const block of blocks) block.boxes.forEach((i, n) => { tops[i] = top(block, step, space) + n * step })
  return tops
}

const join = (upper, lower, step) => ({
  boxes: [...upper.boxes, ...lower.boxes],
  sum: upper.sum + lower.sum - lower.boxes.length * upper.boxes.length * step,
})

const top = ({ boxes, sum }, step, space) => Math.max(0, Math.min(sum / boxes.length, space - boxes.length * step))
