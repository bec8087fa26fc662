// The scene as pixels: what the network gets.
import {corners, generator} from './scene.js'
const {within} = play.draw

export const STROKE = .03  // width of a line drawn by hand

// ---- backgrounds, as `background` of the chapter on shapes draws them

const smooth = t => t * t * (3 - 2 * t)
const mix = (a, b, t) => a + (b - a) * t

// A few random values, enlarged smoothly.
function clouds(grain, side, random) {
  const noise = Array.from({length: grain * grain}, random)
  const at = v => within(v * grain / side - .5, 0, grain - 1)
  return (x, y) => {
    const column = Math.floor(at(x))
    const row = Math.floor(at(y))
    const across = smooth(at(x) - column)
    const value = row => {
      const left = noise[row * grain + column]
      return mix(left, noise[row * grain + Math.min(column + 1, grain - 1)], across)
    }
    return mix(value(row), value(Math.min(row + 1, grain - 1)), smooth(at(y) - row))
  }
}

// How far a pixel lies along a direction, for stripes and slopes.
function ramp(angle, side) {
  return (x, y) => (x * Math.cos(angle) + y * Math.sin(angle)) / side
}

const PATTERNS = {
  clouds: (random, side) => clouds(5, side, random),
  stripes(random, side) {
    const cloudy = clouds(5, side, random)
    const along = ramp(.6, side)
    return (x, y) => .2 * cloudy(x, y) + .4 * Math.sin(40 * along(x, y)) + .4
  },
  slope(random, side) {
    const cloudy = clouds(5, side, random)
    const along = ramp(1.1, side)
    return (x, y) => .2 * cloudy(x, y) + .6 * Math.abs(along(x, y))
  },
  plain: () => () => 0,
}

// Two muted colours each, and how much single pixels differ.
const BACKGROUNDS = {
  clouds: [[88, 104, 128], [170, 176, 160], 12],
  stripes: [[122, 98, 90], [170, 158, 132], 12],
  slope: [[190, 184, 170], [84, 104, 96], 12],
  plain: [[222, 230, 236], [222, 230, 236], 0],
}
export const BACKGROUND_NAMES = Object.keys(BACKGROUNDS)

export function background(name, side) {
  const [first, second, speckle] = BACKGROUNDS[name]
  const random = generator(7)
  const pattern = PATTERNS[name](random, side)
  const pixels = new Uint8ClampedArray(4 * side * side)
  for (let i = 0; i < side * side; i++) {
    const share = pattern(i % side, Math.floor(i / side))
    const noise = speckle * (2 * random() - 1)
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = mix(first[c], second[c], share) + noise
    pixels[4 * i + 3] = 255
  }
  return new ImageData(pixels, side, side)
}

// ---- shapes upon it

function trace(context, points, side) {
  context.beginPath()
  for (const [x, y] of points) context.lineTo(side * x, side * y)
}

function paintObject(context, object, side) {
  trace(context, corners(object), side)
  if (object.name === 'drawing') {
    context.strokeStyle = object.color
    context.lineWidth = STROKE * side
    context.lineCap = 'round'
    context.lineJoin = 'round'
    context.stroke()
    return
  }
  context.closePath()
  context.fillStyle = object.color
  context.fill()
}

// A canvas of the network's size and a function that paints a scene and gives its pixels.
export function painter(side) {
  const canvas = document.createElement('canvas')
  canvas.width = side
  canvas.height = side
  const context = canvas.getContext('2d', {willReadFrequently: true})
  return (objects, ground) => {
    context.putImageData(ground, 0, 0)
    for (const object of objects) paintObject(context, object, side)
    return context.getImageData(0, 0, side, side)
  }
}

// A background as the address of a picture.
export function address(ground) {
  const canvas = document.createElement('canvas')
  canvas.width = ground.width
  canvas.height = ground.height
  canvas.getContext('2d').putImageData(ground, 0, 0)
  return canvas.toDataURL()
}
