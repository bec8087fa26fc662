// The detector that lives on the page. Its parts are loaded where the figure stands, and only
// there; the network itself when it is needed. Without WebAssembly the picture stays as it is.
(() => {
  const here = document.currentScript.src
  play.figures.live = async div => {
    if (!globalThis.WebAssembly || !globalThis.Worker) return
    const {liveFigure} = await import(new URL('live/figure.js', here))
    await liveFigure(div)
  }
})()
