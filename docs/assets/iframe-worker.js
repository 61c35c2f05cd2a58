// Browsers refuse web workers to pages that are opened as files. There the search worker runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const room = (this.room = frame.contentWindow)
      const load = (source) =>
        new Promise((done, failed) => {
          const script = room.document.createElement("script")
          script.src = new URL(source, location.href).href
          script.onload = done
          script.onerror = failed
          room.document.body.append(script)
        })
      room.importScripts = (...sources) => sources.reduce((before, source) => before.then(() => load(source)), Promise.resolve())
      room.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.ready = load(url)
    }
    postMessage(data) {
      this.ready.then(() => this.room.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.room.frameElement.remove()
    }
  }
}
