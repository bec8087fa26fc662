// Runs the network beside the page, so that the page never waits for it: one thread, with the
// WebAssembly of onnxruntime-web.
import * as ort from './ort.wasm.bundle.min.mjs'

const beside = name => new URL(name, import.meta.url).href
ort.env.wasm.numThreads = 1
ort.env.wasm.wasmPaths = {wasm: beside('ort-wasm-simd-threaded.wasm')}
const session = ort.InferenceSession.create(beside('live.onnx'))

// Red, green and blue of all pixels, one colour after the other, in [0,1].
function planes({data, width, height}) {
  const n = width * height
  const values = new Float32Array(3 * n)
  for (let i = 0; i < n; i++)
    for (let c = 0; c < 3; c++) values[c * n + i] = data[4 * i + c] / 255
  return new ort.Tensor('float32', values, [1, 3, height, width])
}

let warm = false

async function answer(pixels) {
  const network = await session
  const image = planes(pixels)
  // the first run is slow, as the WebAssembly is still being compiled
  if (!warm) await network.run({image})
  warm = true
  const start = performance.now()
  const {logits, offsets} = await network.run({image})
  return {logits: logits.data, offsets: offsets.data, ms: performance.now() - start}
}

onmessage = async ({data}) => {
  try { postMessage(await answer(data)) }
  catch (fault) { postMessage({fault: `${fault.message ?? fault}`}) }
}
