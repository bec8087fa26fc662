// The page's side of the worker. While the network is busy only the newest scene waits for it.

// `answered` is called with logits and offsets and the pixels they are for, `failed` with what
// went wrong.
export function startDetector(answered, failed) {
  const worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'})
  let busy = false
  let given = null
  let waiting = null

  function ask(pixels) {
    if (busy) {
      waiting = pixels
      return
    }
    busy = true
    given = pixels
    worker.postMessage(pixels)
  }
  worker.onmessage = ({data}) => {
    busy = false
    const pixels = given
    if (waiting) {
      const next = waiting
      waiting = null
      ask(next)
    }
    if (data.fault) failed(data.fault)
    else answered(data, pixels)
  }
  worker.onerror = () => failed('the worker could not be started')
  return ask
}

// A small figure waits for its reader, a large one until it is seen and the page is at rest.
export function whenWanted(div, small, begin) {
  if (small) return whenTouched(div, begin)
  const atRest = globalThis.requestIdleCallback ?? (f => setTimeout(f, 200))
  const watch = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return
    watch.disconnect()
    if (document.readyState === 'complete') atRest(begin)
    else addEventListener('load', () => atRest(begin))
  })
  watch.observe(div)
}

function whenTouched(div, begin) {
  const kinds = ['pointerdown', 'focusin', 'keydown']
  function touched() {
    for (const kind of kinds) div.removeEventListener(kind, touched)
    begin()
  }
  for (const kind of kinds) div.addEventListener(kind, touched)
}
