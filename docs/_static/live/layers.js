// What the network sees, drawn over the picture.
import {NAMES} from './scene.js'
import {heat} from './network.js'
const {el, edges} = play.draw

export const named = ({label, score}) => `${NAMES[label]} ${score.toFixed(2)}`

const rect = (box, kind, inside) => el('rect', {...edges(box, inside), class: kind})

const faint = pair => rect(pair.box, `play-faint play-color${pair.label}`)

// The name above its box, or inside where there is no room.
function nameOf(pair, kind) {
  const [x1, y1] = pair.box
  const y = 100 * y1 < 5 ? 100 * y1 + 4.5 : 100 * y1 - 1
  const x = Math.min(100 * x1, 75)
  return el('text', {x, y, class: `play-found ${kind}`}, named(pair))
}

// Found boxes, green for true and red for false positives; white for what was missed.
function detections({found, hits, truth}) {
  const kinds = hits.map(hit => hit >= 0 ? 'play-true' : 'play-false')
  const missed = truth.filter((_, i) => !hits.includes(i))
  return [
    ...missed.map(({box}) => rect(box, 'play-overlooked')),
    ...found.map((pair, i) => rect(pair.box, `play-detection ${kinds[i]}`)),
    ...found.map((pair, i) => nameOf(pair, kinds[i])),
  ]
}

const before = ({pairs}) => pairs.map(faint)

function over({pairs, anchors}) {
  return pairs.map(({anchor, label}) => {
    return rect(anchors[anchor].box, `play-over play-color${label}`)
  })
}

// All of a grid, thin, and on top those of a cell in the middle.
function all({anchors, network, grid}) {
  const g = network.grids[grid]
  const middle = g / 2 * g + g / 2
  const own = anchors.filter(anchor => anchor.grid === grid)
  const thin = own.map(({box}) => rect(box, 'play-background'))
  const bold = own.filter(({cell}) => cell === middle).map(({box}) => rect(box, 'play-forced'))
  return [el('g', {class: 'play-anchors'}, ...thin, ...bold)]
}

// A square for each cell, as dark as its best anchor is sure.
function heated({rows, anchors, network, grid, label}) {
  const g = network.grids[grid]
  return heat(rows, anchors, grid, label).map((score, cell) => {
    // x slowest
    const column = Math.floor(cell / g)
    const row = cell % g
    const box = [column / g, row / g, (column + 1) / g, (row + 1) / g]
    const e = rect(box, 'play-heat')
    e.setAttribute('fill-opacity', (.9 * score).toFixed(3))
    return e
  })
}

export const LAYERS = {
  detections: ['what it finds', detections],
  before: ['before suppression', before],
  over: ['anchors over the threshold', over],
  all: ['all anchors', all],
  heat: ['heat map', heated],
}

// The anchor and the box of an explained detection.
export function explained({anchor, box}, anchors) {
  return [
    rect(anchors[anchor].box, 'play-anchor-line play-asked'),
    rect(box, 'play-decoded play-asked'),
  ]
}
