// From the rows of the network to named boxes, as Detector.predict does it, and what can be
// said about each of them. Nothing here draws; tests/test_live.py compares it with the Python.
const {anchorBoxes, argmax, clip, cxcywh, decode, decisions, iou, nms, sigmoid} = play

const CANDIDATES = 1000  // pairs of anchor and class that take part in suppression
const MOST = 100         // boxes that are kept at most
const HIT = .5           // least IoU of a true positive

// Anchors with the number of their grid and the place of their cell in it, x slowest.
export function makeAnchors({grids, zooms, ratios}) {
  const boxes = anchorBoxes(grids, zooms, ratios)
  const perCell = zooms.length * ratios.length
  const places = grids.flatMap((g, grid) => {
    return Array.from({length: g * g * perCell}, (_, i) => ({
      grid, cell: Math.floor(i / perCell),
    }))
  })
  return boxes.map((box, i) => ({box, ...places[i]}))
}

// In 32 bits, as in Python: scores near 1 that are equal there are equal here, too.
const score = logit => Math.fround(sigmoid(logit))

// Scores of all anchors and classes, without background; and the decoded boxes.
export function readRows({logits, offsets}, anchors, nClasses) {
  const scores = anchors.map((_, a) => {
    const first = a * (nClasses + 1) + 1
    return Array.from(logits.subarray(first, first + nClasses), score)
  })
  const acts = anchors.map((_, a) => [...offsets.subarray(4 * a, 4 * a + 4)])
  const boxes = anchors.map((anchor, a) => {
    return clip(decode('SSDCoder', acts[a], cxcywh(anchor.box)))
  })
  return {scores, acts, boxes}
}

// Pairs of anchor and class over a threshold, best first.
export function candidates({scores, boxes}, scoreThresh) {
  const pairs = scores.flatMap((row, anchor) => {
    const over = [...row.keys()].filter(label => row[label] >= scoreThresh)
    return over.map(label => ({anchor, label, score: row[label], box: boxes[anchor]}))
  })
  return pairs.sort((a, b) => b.score - a.score).slice(0, CANDIDATES)
}

const column = (pairs, key) => pairs.map(pair => pair[key])

// What is kept of candidates: of each class, then across classes.
export function suppress(pairs, nmsThresh, acrossThresh) {
  const columns = ['box', 'label', 'score'].map(key => column(pairs, key))
  const all = decisions(...columns, -Infinity, nmsThresh)
  const kept = all.filter(d => d.kept).slice(0, MOST).map(d => pairs[d.box])
  return nms(column(kept, 'box'), column(kept, 'score'), acrossThresh).map(i => kept[i])
}

export function find(rows, scoreThresh, nmsThresh, acrossThresh) {
  return suppress(candidates(rows, scoreThresh), nmsThresh, acrossThresh)
}

// For each box, best first, the object that it finds, or -1: Pascal VOC's rule, by which a box
// takes the object of its class that it overlaps most, if no better box has taken it.
export function judge(found, truth) {
  const free = truth.map(() => true)
  return found.map(({box, label}) => {
    const ious = truth.map(t => t.label === label ? iou(box, t.box) : -1)
    const best = argmax(ious)
    if (best < 0 || ious[best] < HIT || !free[best]) return -1
    free[best] = false
    return best
  })
}

// Counts of a scene; without a box, or without an object, a rate is not defined.
export function count(hits, nObjects) {
  const truePositives = hits.filter(hit => hit >= 0).length
  return {
    truePositives,
    falsePositives: hits.length - truePositives,
    falseNegatives: nObjects - truePositives,
    precision: hits.length ? truePositives / hits.length : NaN,
    recall: nObjects ? truePositives / nObjects : NaN,
  }
}

// The highest score of the anchors of each cell of a grid, for one class or, with -1, for all.
export function heat({scores}, anchors, grid, label) {
  const cells = []
  anchors.forEach((anchor, a) => {
    if (anchor.grid !== grid) return
    const score = label < 0 ? Math.max(...scores[a]) : scores[a][label]
    cells[anchor.cell] = Math.max(cells[anchor.cell] ?? 0, score)
  })
  return cells
}
