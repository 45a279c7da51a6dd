/* In the search box a word's leading dash is a part of an option's name, as in --warm-start.
   The search would take the dash for "pages without this word" and find nothing. */
window.Worker = class extends window.Worker {
  postMessage(message) {
    const QUERY = 2 // the number that the theme gives this kind of message
    const query = message.type === QUERY
    super.postMessage(query ? { ...message, data: message.data.replace(/(^|\s)-+/g, "$1") } : message)
  }
}
