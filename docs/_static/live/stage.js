// The picture in which shapes are moved, turned, resized, recoloured and erased, by mouse,
// finger or keyboard.
import {COLORS, corners, drawing, moved, resized, turned} from './scene.js'
import {STROKE} from './paint.js'
const {set, el, edges, asPoints, within, place, drags, arrowStep} = play.draw

const TURN = 5           // degrees for one press of a key
const HANDLE = .07       // how far the handle for turning stands above a shape
const KEYS = 'arrow keys move it, shift and arrow keys resize it, R and shift R turn it, ' +
  'C changes its colour, delete erases it'

const colorName = color => Object.keys(COLORS).find(name => COLORS[name] === color)

export const described = ({name, color}) => `${colorName(color)} ${name}`

function nextColor(color) {
  const colors = Object.values(COLORS)
  return colors[(colors.indexOf(color) + 1) % colors.length]
}

const path = points => `M${asPoints(points)}`

// `scene` has `objects`, the id of the one that is `selected`, the `color` of new ones, and
// whether the pointer draws by hand (`byHand`). `changed` is called after each change of it,
// `clicked` with place and element of a click that has moved nothing.
export function makeStage(svg, scene, changed, clicked) {
  const ground = el('image', {width: 100, height: 100, preserveAspectRatio: 'none'})
  const shapes = el('g')
  const overlay = el('g', {class: 'play-overlay'})
  const frame = el('rect', {class: 'play-selection'})
  const stem = el('path', {class: 'play-selection'})
  const corner = el('circle', {class: 'play-corner play-handle', r: 2.5})
  const wheel = el('circle', {class: 'play-corner play-handle play-wheel', r: 2.5})
  const selection = el('g', {}, frame, stem, corner, wheel)
  const line = el('path', {class: 'play-stroke', 'stroke-width': 100 * STROKE})
  svg.append(ground, shapes, overlay, selection, line)
  const elements = new Map()

  const selected = () => scene.objects.find(o => o.id === scene.selected)

  function replace(id, change) {
    scene.objects = scene.objects.map(o => o.id === id ? change(o) : o)
    changed()
  }
  const changeSelected = change => selected() && replace(scene.selected, change)

  function put(object) {
    scene.objects = [...scene.objects, object]
    scene.selected = object.id
    changed()
  }
  function replaceAll(objects) {
    scene.objects = objects
    scene.selected = undefined
    changed()
  }
  function erase(id) {
    if (id === undefined) return
    const at = scene.objects.findIndex(o => o.id === id)
    scene.objects = scene.objects.filter(o => o.id !== id)
    scene.selected = scene.objects[Math.min(at, scene.objects.length - 1)]?.id
    changed()
  }
  function eraseByKey(id) {
    erase(id)
    // the keyboard goes on with a neighbour
    elements.get(scene.selected)?.focus({preventScroll: true})
  }

  function keyed(event, id) {
    const step = arrowStep(event)
    if (step) return replace(id, o => (event.shiftKey ? resized : moved)(o, ...step))
    if (event.ctrlKey || event.altKey || event.metaKey) return
    const keys = {
      r: () => replace(id, o => turned(o, o.degrees + TURN)),
      R: () => replace(id, o => turned(o, o.degrees - TURN)),
      c: () => replace(id, o => ({...o, color: nextColor(o.color)})),
      Delete: () => eraseByKey(id),
      Backspace: () => eraseByKey(id),
    }
    if (!keys[event.key]) return
    // the site has keys of its own
    event.preventDefault()
    event.stopPropagation()
    keys[event.key]()
  }

  function makeElement({id, name}) {
    const byHand = name === 'drawing'
    const e = el(byHand ? 'path' : 'polygon', {tabindex: 0, role: 'application'})
    set(e, {class: byHand ? 'play-object play-stroke' : 'play-object', 'data-id': id})
    if (byHand) set(e, {'stroke-width': 100 * STROKE})
    e.onkeydown = event => keyed(event, id)
    e.onfocus = () => {
      if (scene.selected === id) return
      scene.selected = id
      changed()
    }
    elements.set(id, e)
    shapes.append(e)
    return e
  }

  function drawObject(object) {
    const e = elements.get(object.id) ?? makeElement(object)
    const points = corners(object)
    if (object.name === 'drawing') set(e, {d: path(points), stroke: object.color})
    else set(e, {points: asPoints(points), fill: object.color})
    set(e, {'aria-label': `${described(object)}: ${KEYS}`})
  }

  function drawSelection() {
    const object = selected()
    set(selection, {visibility: object ? 'visible' : 'hidden'})
    if (!object) return
    const [x1, y1, x2, y2] = object.box.map(v => 100 * v)
    const top = y1 - 100 * HANDLE
    set(frame, edges(object.box))
    set(stem, {d: `M${(x1 + x2) / 2} ${y1}V${top}`})
    // at the edge of the picture the handles stay where they can be seen
    set(corner, {cx: Math.min(x2, 97.5), cy: Math.min(y2, 97.5)})
    set(wheel, {cx: (x1 + x2) / 2, cy: Math.max(top, 2.5)})
  }

  function draw() {
    const ids = new Set(scene.objects.map(o => o.id))
    for (const [id, e] of elements) {
      if (ids.has(id)) continue
      e.remove()
      elements.delete(id)
    }
    scene.objects.forEach(drawObject)
    drawSelection()
  }

  // ---- pointers

  let still = true     // nothing was moved since the pointer went down
  let hit = svg        // what it went down on; a click itself only knows the picture
  let sketched = null  // what is being drawn by hand

  function resizing(start) {
    const {box} = selected()
    return now => changeSelected(o => resized({...o, box}, now.x - start.x, now.y - start.y))
  }
  function turning() {
    const object = selected()
    const [x1, y1, x2, y2] = object.box
    const angle = p => Math.atan2(p.y - (y1 + y2) / 2, p.x - (x1 + x2) / 2) * 180 / Math.PI
    return now => changeSelected(() => {
      // the handle stands above the shape, at -90 degrees
      return turned(object, Math.round(object.degrees + angle(now) + 90))
    })
  }
  function moving(target, start) {
    const id = +target.dataset.id
    const object = scene.objects.find(o => o.id === id)
    elements.get(id).focus({preventScroll: true})
    return now => replace(id, () => moved(object, now.x - start.x, now.y - start.y))
  }
  function sketching({x, y}) {
    const points = [[x, y]]
    set(line, {stroke: scene.color})
    return now => {
      points.push([within(now.x, 0, 1), within(now.y, 0, 1)])
      sketched = points
      set(line, {d: path(points)})
    }
  }
  function holding(target, start) {
    if (scene.byHand) return sketching(start)
    if (target === corner) return resizing(start)
    if (target === wheel) return turning()
    if (target.classList.contains('play-object')) return moving(target, start)
  }
  function begin(start, target) {
    still = true
    hit = target
    const move = holding(target, start)
    return move && (now => {
      // a hand is never quite still
      if (still && Math.hypot(now.x - start.x, now.y - start.y) < .01) return
      still = false
      move(now)
    })
  }
  function ended() {
    if (!sketched) return
    put(drawing(scene.color, sketched))
    sketched = null
    set(line, {d: ''})
  }
  drags(svg, begin, ended)
  svg.onclick = event => {
    if (still && !scene.byHand) clicked(place(svg, event), hit)
  }

  const show = address => set(ground, {href: address})
  return {draw, show, overlay, selected, put, replaceAll, erase, changeSelected}
}
