// What is drawn: shapes, and drawings by hand, in a square of side 1. Plain objects and
// functions that give changed ones.
const {OUTLINES, area, around, clip, fit, intersection, turn} = play
const {within} = play.draw

export const NAMES = Object.keys(OUTLINES)

// Saturated and light, as the colours of the training images are.
export const COLORS = {
  red: '#e62a2a', orange: '#f08a1d', yellow: '#ead61c', green: '#2bcf46',
  cyan: '#22cfe0', blue: '#2f5bf0', violet: '#a433f0', pink: '#f02fb0',
}

// Less of an object than this share is no object any more, as in training (`min_visible`).
const LEAST = .2

let made = 0

// `name` is that of a shape, or `drawing`.
export function makeObject(name, color, box, degrees = 0, outline = OUTLINES[name]) {
  return {id: made++, name, color, box, degrees, outline}
}

export const corners = ({outline, box, degrees}) => fit(outline, box, degrees)

const middle = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2]

// The middle stays in the picture; the edges may leave it.
export function moved(object, dx, dy) {
  const [x, y] = middle(object.box)
  const shiftX = within(dx, -x, 1 - x)
  const shiftY = within(dy, -y, 1 - y)
  const [x1, y1, x2, y2] = object.box
  return {...object, box: [x1 + shiftX, y1 + shiftY, x2 + shiftX, y2 + shiftY]}
}

// The lower right corner moves.
export function resized(object, dx, dy) {
  const [x1, y1, x2, y2] = object.box
  const right = within(x2 + dx, x1 + .03, x1 + 1)
  const bottom = within(y2 + dy, y1 + .03, y1 + 1)
  return {...object, box: [x1, y1, right, bottom]}
}

// Width and height of an outline that is turned.
function extent(outline, degrees) {
  const [x1, y1, x2, y2] = around(turn(outline, degrees))
  return [x2 - x1, y2 - y1]
}

// A shape keeps its size while it turns, so its box becomes wider or narrower.
export function turned(object, degrees) {
  const before = extent(object.outline, object.degrees)
  const after = extent(object.outline, degrees)
  const [x, y] = middle(object.box)
  const half = [0, 1].map(i => {
    return (object.box[2 + i] - object.box[i]) / 2 * after[i] / before[i]
  })
  return {...object, degrees, box: [x - half[0], y - half[1], x + half[0], y + half[1]]}
}

// A drawing by hand: the points become an outline that can be moved like any other.
export function drawing(color, points) {
  const [x1, y1, x2, y2] = around(points)
  // a line straight across has no height to be stretched to
  const box = [x1, y1, Math.max(x2, x1 + .01), Math.max(y2, y1 + .01)]
  const flat = x2 === x1 || y2 === y1
  return makeObject('drawing', color, box, 0, flat ? [[0, 0], [1, 1]] : points)
}

// The objects that are to be found. A drawing is none of the classes.
export function truth(objects) {
  return objects.flatMap(object => {
    const label = NAMES.indexOf(object.name)
    const box = clip(object.box)
    if (label < 0 || area(box) <= LEAST * area(object.box)) return []
    return [{label, box, id: object.id}]
  })
}

// ---- random scenes, as the training images have them

const pick = (values, random) => values[Math.floor(random() * values.length)]

function randomBox(random) {
  const size = .2 + .3 * random()
  const stretch = Math.sqrt(.75 + .58 * random())
  const w = size * stretch
  const h = size / stretch
  const x = random() * (1 - w)
  const y = random() * (1 - h)
  return [x, y, x + w, y + h]
}

// Share of the smaller box that both have in common.
function hidden(a, b) {
  return area(intersection(a, b)) / Math.min(area(a), area(b))
}

// A box that hides little of the others, or none after twenty tries.
export function freeBox(boxes, random) {
  for (let i = 0; i < 20; i++) {
    const box = randomBox(random)
    if (boxes.every(other => hidden(box, other) < .3)) return box
  }
}

export function randomScene(n, random) {
  const boxes = []
  for (let i = 0; i < n; i++) {
    const box = freeBox(boxes, random)
    if (box) boxes.push(box)
  }
  return boxes.map(box => {
    const degrees = 16 * random() - 8
    return makeObject(pick(NAMES, random), pick(Object.values(COLORS), random), box, degrees)
  })
}

// Random numbers in [0,1) that a seed decides (mulberry32).
export function generator(seed) {
  let state = seed
  return () => {
    state = state + 0x6d2b79f5 | 0
    let t = Math.imul(state ^ state >>> 15, 1 | state)
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32
  }
}
