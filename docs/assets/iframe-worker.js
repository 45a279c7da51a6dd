/* Search without a server: browsers start no worker from file:, so a hidden frame runs its script.
   The theme's search looks for the name IFrameWorker in the page to find its own files. */
if (location.protocol === "file:") {
  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      this.frame = frame
      const inner = frame.contentWindow
      inner.document.open()
      inner.document.write("<!doctype html><body></body>")
      inner.document.close()
      inner.postMessage = data => {
        this.dispatchEvent(new MessageEvent("message", { data }))
      }
      inner.importScripts = (...urls) => urls.reduce(
        (before, next) => before.then(() => this.load(next)), Promise.resolve()
      )
      this.ready = this.load(String(url))
    }

    load(url) {
      const document = this.frame.contentDocument
      return new Promise((resolve, reject) => {
        const script = document.createElement("script")
        script.src = url
        script.onload = () => resolve()
        script.onerror = () => reject(new Error(url))
        document.body.appendChild(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => {
        const inner = this.frame.contentWindow
        inner.dispatchEvent(new inner.MessageEvent("message", { data }))
      })
    }

    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
