// Copies text. Over plain HTTP there is no clipboard: then it selects `element`, for the reader's own
// copy key. Returns whether it was copied.

export async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    getSelection().selectAllChildren(element)
    return false
  }
}
