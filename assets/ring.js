// A fixed number of time slots, oldest overwritten: whatever arrives, the memory stays the same.

export class Ring {
  constructor(size) {
    this.values = new Float64Array(size)
    this.slots = new Float64Array(size).fill(-Infinity) // which slot a place holds now
  }

  get(slot) {
    const place = slot % this.values.length
    return this.slots[place] === slot ? this.values[place] : undefined
  }

  set(slot, value) {
    const place = slot % this.values.length
    if (slot < this.slots[place]) return // from before the ring's time
    this.slots[place] = slot
    this.values[place] = value
  }
}
