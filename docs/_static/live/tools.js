// What a scene is changed with: shapes, colours, drawing by hand, erasing, turning, grounds.
import {COLORS, NAMES, freeBox, makeObject, randomScene, turned} from './scene.js'
import {BACKGROUND_NAMES} from './paint.js'
import {scribble} from './tasks.js'
const {set, el, shapePoints, slider, choices, button} = play.draw

const MIDDLE = [.35, .35, .65, .65]

export function row(label, ...children) {
  return el('div', {class: 'play-buttons', role: 'group', 'aria-label': label}, ...children)
}

function shapeButton(name, add) {
  const points = shapePoints(name, [.08, .08, .92, .92])
  const icon = el('svg', {viewBox: '0 0 100 100', 'aria-hidden': 'true'})
  icon.append(el('polygon', {points}))
  const e = button('', () => add(name))
  e.append(icon)
  return set(e, {class: 'play-button play-icon', 'aria-label': `add a shape: ${name}`})
}

function colorButton(name, color, recolor) {
  const e = button('', () => recolor(color))
  e.style.background = color
  return set(e, {class: 'play-button play-color', 'aria-label': `colour: ${name}`})
}

// A switch for the pointer. A key cannot draw: it gets a drawing that is ready.
function handButton(scene, put) {
  const e = button('Draw by hand', () => {})
  const show = () => set(e, {'aria-pressed': scene.byHand})
  e.onclick = event => {
    if (event.detail === 0) put(scribble(scene.color))
    else scene.byHand = !scene.byHand
    show()
  }
  return show()
}

export function makeTools(scene, stage, putGround) {
  const add = name => {
    const box = freeBox(scene.objects.map(o => o.box), Math.random) ?? MIDDLE
    stage.put(makeObject(name, scene.color, box))
  }
  const recolor = color => {
    scene.color = color
    stage.changeSelected(o => ({...o, color}))
  }
  const another = () => {
    const n = 2 + Math.floor(4 * Math.random())
    stage.replaceAll(randomScene(n, Math.random))
  }
  const shapes = NAMES.map(name => shapeButton(name, add))
  const colors = Object.entries(COLORS).map(([name, color]) => {
    return colorButton(name, color, recolor)
  })
  const [turnRow, degrees, putDegrees] = slider('turn', [-180, 180, 1, 0], () => {
    stage.changeSelected(o => turned(o, degrees()))
  })
  const [grounds, ground] = choices(
    'background', BACKGROUND_NAMES, BACKGROUND_NAMES, 0, () => putGround(ground()[0]), 'radio')
  const edits = [
    handButton(scene, stage.put), button('New scene', another),
    button('Erase', () => stage.erase(scene.selected ?? scene.objects.at(-1)?.id)),
    button('Clear', () => stage.replaceAll([])),
  ]
  // the slider follows the shape that is selected
  function follow(object) {
    if (object) putDegrees((object.degrees + 540) % 360 - 180)
  }
  const basic = [
    row('add a shape', ...shapes), row('colour', ...colors), row('edit', ...edits),
  ]
  return {basic, further: [turnRow, grounds], follow}
}
