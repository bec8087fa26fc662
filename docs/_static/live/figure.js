// The live detector, put together: the picture and its tools, what the network finds, what it
// sees, and why. A small one, without what explains, stands on the home page.
import {COLORS, NAMES, makeObject, truth} from './scene.js'
import {address, background, painter} from './paint.js'
import {candidates, judge, makeAnchors, readRows, suppress} from './network.js'
import {startDetector, whenWanted} from './detector.js'
import {explanation} from './explain.js'
import {LAYERS, explained} from './layers.js'
import {described, makeStage} from './stage.js'
import {TASKS} from './tasks.js'
import {makeTools, row} from './tools.js'
import {fillResults, introduced, spoken, summary} from './words.js'
const {area, iou} = play
const {el, set, figure, slider, choices, button} = play.draw

const QUIET = 700  // milliseconds without a change before a result is announced

const START = () => [
  makeObject('heart', COLORS.red, [.12, .14, .46, .46], 4),
  makeObject('star', COLORS.yellow, [.55, .1, .88, .45], -6),
  makeObject('arrow', COLORS.blue, [.3, .55, .7, .88], 3),
]

// Sliders and switches, and a function that tells how they stand.
function makeSwitches(network, changed) {
  const threshold = (name, value) => slider(name, [.02, 1, .01, value], changed)
  const radio = (legend, values, names) => {
    return choices(legend, values, names, 0, changed, 'radio')
  }
  const [scoreRow, score] = threshold('confidence', network.score_thresh)
  const [nmsRow, nms] = threshold('IoU', network.nms_thresh)
  const layers = Object.values(LAYERS).map(([name]) => name)
  const [layerRow, layer] = radio('show', Object.keys(LAYERS), layers)
  const grids = network.grids.map(g => `${g}x${g}`)
  const [gridRow, grid] = radio('grid', [...network.grids.keys()], grids)
  const [labelRow, label] = radio('class', [-1, ...NAMES.keys()], ['any', ...NAMES])
  function read() {
    const [shown] = layer()
    gridRow.hidden = !['all', 'heat'].includes(shown)
    labelRow.hidden = shown !== 'heat'
    return {score: score(), nms: nms(), shown, grid: grid()[0], label: label()[0]}
  }
  return {rows: [scoreRow, nmsRow, layerRow, gridRow, labelRow], read}
}

// Buttons for the tasks that the page describes, and below them what it says about one.
function makeTasks(stage, svg) {
  const text = el('div', {class: 'play-task-text', 'aria-live': 'polite'})
  const buttons = [...document.querySelectorAll('.play-task')].map(task => {
    return button(task.dataset.name, () => {
      text.replaceChildren(...[...task.children].map(e => e.cloneNode(true)))
      stage.replaceAll(TASKS[task.dataset.task]())
      // on a phone the picture may be out of sight
      svg.scrollIntoView({block: 'nearest'})
    })
  })
  const title = el('p', {class: 'play-title'}, 'Ways to fool it')
  return el('div', {class: 'play-tasks'}, title, row('tasks', ...buttons), text)
}

function smallestUnder(found, {x, y}) {
  const holds = ({box: [x1, y1, x2, y2]}) => x >= x1 && y >= y1 && x <= x2 && y <= y2
  return found.filter(holds).sort((a, b) => area(a.box) - area(b.box))[0]
}

export async function liveFigure(div) {
  const network = await (await fetch(new URL('live.json', import.meta.url))).json()
  const small = div.dataset.size === 'small'
  const anchors = makeAnchors(network)
  const paint = painter(network.size)
  const scene = {objects: START(), selected: undefined, color: COLORS.green, byHand: false}
  let ground
  let rows = null    // the newest answer of the network
  let found = []     // the boxes that are shown
  let asked = null   // anchor and class of the box that is explained
  let ask = null     // takes pixels to the network, once it is there
  let speed = ''

  const list = el('ul', {class: 'play-results', 'aria-label': 'what was found'})
  const status = el('p', {class: 'play-status', 'aria-live': 'polite'})
  const switches = makeSwitches(network, () => show())
  const why = explanation()
  const [svg, tell] = figure(div, {
    view: '0 0 100 100', after: small ? [list] : [list, ...switches.rows, why.element],
    label: 'A picture with shapes that can be moved, and the boxes that the network finds',
    hint: 'Drag a shape, or its handles: the one above turns it, the one at the corner ' +
      'resizes it. With the keyboard: tab, arrow keys, shift and arrow keys, R, C, delete. ' +
      'Green: true positive. Red and dashed: false positive. White and dotted: missed. ' +
      (small ? '' : introduced(network)),
  })
  // while a shape is dragged its text changes too often to be read out
  set(div.querySelector('.play-text'), {'aria-live': 'off'})
  const stage = makeStage(svg, scene, changed, clicked)
  const tools = makeTools(scene, stage, putGround)
  const column = el('div', {class: 'play-stage'})
  svg.replaceWith(column)
  column.append(svg, ...tools.basic, ...(small ? [] : tools.further), status)
  if (!small) div.prepend(makeTasks(stage, svg))

  function putGround(name) {
    ground = background(name, network.size)
    stage.show(address(ground))
    changed()
  }

  let waiting = false  // for the next frame
  function changed() {
    if (waiting) return
    waiting = true
    requestAnimationFrame(() => {
      waiting = false
      stage.draw()
      tools.follow(stage.selected())
      if (ask) ask(paint(scene.objects, ground))
    })
  }

  function begin() {
    tell('The network is being loaded, about five megabytes.')
    ask = startDetector(answered, fault => tell(`The network could not be loaded: ${fault}.`))
    changed()
  }

  function answered(answer, pixels) {
    rows = readRows(answer, anchors, NAMES.length)
    speed = `The network took ${answer.ms.toFixed(0)} ms on your machine.`
    const result = show()
    div.dispatchEvent(new CustomEvent('found', {detail: {...result, pixels, ms: answer.ms}}))
  }

  let announcement
  function announce(text) {
    clearTimeout(announcement)
    announcement = setTimeout(() => { status.textContent = text }, QUIET)
  }

  // The answer as the switches stand.
  function judged({score, nms}) {
    const pairs = candidates(rows, score)
    found = suppress(pairs, nms, network.across_thresh)
    const real = truth(scene.objects)
    return {pairs, found, truth: real, hits: judge(found, real), objects: scene.objects}
  }

  function show() {
    const setting = switches.read()
    if (!rows) return
    const result = judged(setting)
    const drawn = LAYERS[setting.shown][1]({...result, ...setting, rows, anchors, network})
    stage.overlay.replaceChildren(...drawn, ...(asked ? explained(asking(), anchors) : []))
    tell(...summary(result), speed)
    announce(spoken(result))
    fillResults(list, result, explain)
    showWhy()
    return result
  }

  // ---- one box

  // The row that is explained, as the network answers now.
  function asking() {
    const {anchor, label} = asked
    return {anchor, label, score: rows.scores[anchor][label], box: rows.boxes[anchor]}
  }

  function showWhy() {
    if (!asked) return why.clear()
    const drawn = scene.objects.map(o => [iou(asking().box, o.box), described(o)])
    const [nearest] = drawn.sort((a, b) => b[0] - a[0])
    why.fill(asking(), rows, anchors, network, nearest)
  }

  function explain(pair) {
    asked = small ? null : pair
    show()
  }

  function clicked(at, target) {
    if (target.classList.contains('play-handle')) return
    if (!target.classList.contains('play-object')) scene.selected = undefined
    changed()
    explain(smallestUnder(found, at) ?? null)
  }

  tell('Move a shape, and a detector finds it. At your first touch the network is loaded, ' +
    'about five megabytes.')
  switches.read()
  putGround('clouds')
  whenWanted(div, small, begin)
}
