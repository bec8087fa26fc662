// Why there is a box: its anchor, its offsets and what they decode to, its IoU with what was
// drawn, and the confidence of every class.
import {NAMES} from './scene.js'
import {named} from './layers.js'
const {cxcywh} = play
const {el, table} = play.draw

const short = values => values.map(v => v.toFixed(2))

export function explanation() {
  const title = el('p', {class: 'play-title'})
  const [boxes, fillBoxes] = table('From anchor to box', ['', 'x', 'y', 'width', 'height'])
  const overlap = el('p')
  const [classes, fillClasses] = table('Confidence of every class', ['class', 'confidence'])
  const hint = el('p', {class: 'play-hint'}, 'Click on a box, or press it in the list: here ' +
    'it is taken apart.')
  const inside = el('div', {hidden: ''}, title, boxes, overlap, classes)
  const element = el('div', {class: 'play-why'}, hint, inside)

  function clear() {
    hint.hidden = false
    inside.hidden = true
  }

  function fill(pair, {acts, scores, boxes: decoded}, anchors, {grids}, [iou, words] = []) {
    hint.hidden = true
    inside.hidden = false
    const {anchor} = pair
    const g = grids[anchors[anchor].grid]
    title.textContent = `${named(pair)}: row ${anchor} of ${anchors.length}, grid ${g}x${g}`
    fillBoxes([
      ['anchor', ...short(cxcywh(anchors[anchor].box))],
      ['offsets', ...short(acts[anchor])],
      ['decoded', ...short(cxcywh(decoded[anchor]))],
    ])
    overlap.textContent = words && `IoU with the ${words}: ${iou.toFixed(2)}`
    const order = [...NAMES.keys()].sort((i, j) => scores[anchor][j] - scores[anchor][i])
    fillClasses(order.map(i => {
      const kind = i === pair.label ? 'play-chosen' : ''
      return [[NAMES[i], kind], [scores[anchor][i].toFixed(3), kind]]
    }))
  }
  return {element, clear, fill}
}
