// Ends what was started, the latest first: what a test is to the parts that tests/node starts.

export class Owner {
  #ends = []

  after(end) {
    this.#ends.push(end)
  }

  async end() {
    while (this.#ends.length > 0) {
      // One that fails must not keep the others alive.
      await Promise.resolve().then(this.#ends.pop()).catch(error => console.error(String(error)))
    }
  }
}

// Runs `job(owner)`, and ends what it started, also at Ctrl-C.
export async function owning(job) {
  const owner = new Owner()
  const interrupted = () => owner.end().finally(() => process.exit(130))
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, interrupted)
  try {
    return await job(owner)
  } finally {
    await owner.end()
  }
}
