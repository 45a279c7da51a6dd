/* In the search box, --warm-start is the name of an option: pages that have its words.
   The search would take the dash for "pages without this word" and find nothing. */
window.Worker = class extends window.Worker {
  postMessage(message) {
    const QUERY = 2 // the number that the theme gives this kind of message
    super.postMessage(message.type === QUERY ? { ...message, data: nameOptions(message.data) } : message)
  }
}

function nameOptions(query) {
  return query.replace(/(^|\s)--?([\w-]*)/g, (_, space, name) => {
    const words = name.split("-").filter(word => word)
    const last = words.pop() ?? "" // perhaps not yet whole
    return space + [...words.map(word => `+${word}`), last].join(" ")
  })
}
