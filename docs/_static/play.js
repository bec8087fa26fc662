// Arithmetic of the figures that move, the same as in the chapters; tests/test_play.py compares
// the two. Boxes are [x1, y1, x2, y2] in [0,1], or [x, y, width, height] where a name says
// cxcywh. The files play_*.js draw with it; this one comes first and needs no browser.
globalThis.play = (() => {
  // ---- boxes

  const area = ([x1, y1, x2, y2]) => Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0)

  const corners = ([x, y, w, h]) => [x - w / 2, y - h / 2, x + w / 2, y + h / 2]

  const cxcywh = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]

  function intersection(a, b) {
    const topLeft = [Math.max(a[0], b[0]), Math.max(a[1], b[1])]
    const bottomRight = [Math.min(a[2], b[2]), Math.min(a[3], b[3])]
    return [...topLeft, ...bottomRight]
  }

  function iou(a, b) {
    const shared = area(intersection(a, b))
    const union = area(a) + area(b) - shared
    // two boxes of no area have IoU 0, not 0/0
    return shared / Math.max(union, Number.MIN_VALUE)
  }

  // Place of the largest value, the first one if there are several; -1 if there is none.
  const argmax = values => values.indexOf(Math.max(...values))

  // ---- anchors

  // In the order of make_anchors: grid by grid, x slowest, then zooms, then ratios.
  function anchorBoxes(grids, zooms, ratios) {
    const shapes = zooms.flatMap(zoom => ratios.map(([w, h]) => [zoom * w, zoom * h]))
    const boxes = []
    const addCell = (g, column, row) => {
      for (const [w, h] of shapes)
        boxes.push(corners([(column + .5) / g, (row + .5) / g, w / g, h / g]))
    }
    for (const g of grids)
      for (let column = 0; column < g; column++)
        for (let row = 0; row < g; row++) addCell(g, column, row)
    return boxes
  }

  // Label of one anchor: its object's class if the IoU reaches the threshold, 0 for background,
  // -1 in the ignore zone.
  function anchorLabel(iou, label, matchThresh, negThresh) {
    if (iou >= matchThresh) return label
    return iou >= negThresh ? -1 : 0
  }

  // For each anchor a label, the row of its object, and the object that forces it (-1: none);
  // and the table of IoUs, objects x anchors. An object of no area or of label 0 is padding.
  function match(anchors, boxes, labels, matchThresh, negThresh = matchThresh) {
    const real = boxes.map((box, i) => area(box) > 0 && labels[i] > 0)
    const ious = boxes.map((box, i) => anchors.map(a => real[i] ? iou(box, a) : -1))
    const forcedBy = anchors.map(() => -1)
    // in the order of the objects: where two force the same anchor, the later one gets it
    ious.forEach((row, i) => {
      if (real[i] && anchors.length) forcedBy[argmax(row)] = i
    })
    const index = anchors.map((_, a) => {
      return forcedBy[a] >= 0 ? forcedBy[a] : argmax(ious.map(row => row[a]))
    })
    const found = index.map((i, a) => {
      if (forcedBy[a] >= 0) return labels[i]
      return i < 0 ? 0 : anchorLabel(ious[i][a], labels[i], matchThresh, negThresh)
    })
    return {labels: found, index, forcedBy, ious}
  }

  // ---- coders: four activations to a box and back, for an anchor in centre format

  const VARIANCES = [.1, .1, .2, .2]
  const MOST_STRETCH = Math.log(1000 / 16)

  const coders = {
    TanhCoder: {
      decode(acts, [x, y, w, h], cell) {
        const t = acts.map(a => Math.tanh(a) / 2)
        const centre = [x + t[0] * cell[0], y + t[1] * cell[1]]
        return corners([...centre, w * (1 + t[2]), h * (1 + t[3])])
      },
      encode(box, [x, y, w, h], cell) {
        const [bx, by, bw, bh] = cxcywh(box)
        const t = [(bx - x) / cell[0], (by - y) / cell[1], bw / w - 1, bh / h - 1]
        // an object out of reach gets the nearest activations that are finite
        return t.map(v => Math.atanh(Math.min(Math.max(2 * v, -.999), .999)))
      },
    },

    SSDCoder: {
      decode(acts, [x, y, w, h]) {
        const t = acts.map((a, i) => a * VARIANCES[i])
        const stretch = v => Math.exp(Math.min(v, MOST_STRETCH))
        return corners([x + t[0] * w, y + t[1] * h, w * stretch(t[2]), h * stretch(t[3])])
      },
      encode(box, [x, y, w, h]) {
        const [bx, by, bw, bh] = cxcywh(box)
        const stretch = (size, of) => Math.log(Math.max(size, 1e-6) / of)
        const t = [(bx - x) / w, (by - y) / h, stretch(bw, w), stretch(bh, h)]
        return t.map((v, i) => v / VARIANCES[i])
      },
    },
  }
  const decode = (coder, acts, anchor, cell) => coders[coder].decode(acts, anchor, cell)
  const encode = (coder, box, anchor, cell) => coders[coder].encode(box, anchor, cell)

  // ---- focal loss

  // Loss of one prediction that gives the truth the probability p. The weight is alpha where
  // the class is there, 1 - alpha where it is not.
  function focal(p, gamma, weight) {
    return -weight * (1 - p) ** gamma * Math.log(Math.max(p, 1e-38))
  }

  // ---- non-maximum suppression

  // The decisions in their order, best score first. A box is suppressed by the first kept box
  // of its class that it overlaps by more than the threshold. `rival` is that box; of a box
  // that is kept it is the kept one it overlaps most, -1 if there is none.
  function decisions(boxes, labels, scores, scoreThresh, nmsThresh) {
    const candidates = [...scores.keys()].filter(i => scores[i] >= scoreThresh)
    const order = candidates.sort((i, j) => scores[j] - scores[i])
    const stay = []
    return order.map(box => {
      const rivals = stay.filter(k => labels[k] === labels[box])
      const ious = rivals.map(k => iou(boxes[k], boxes[box]))
      const over = ious.findIndex(v => v > nmsThresh)
      const kept = over < 0
      const at = kept ? argmax(ious) : over
      if (kept) stay.push(box)
      return {box, kept, rival: rivals[at] ?? -1, iou: ious[at] ?? 0}
    })
  }

  function nonMaxSuppression(boxes, labels, scores, scoreThresh, nmsThresh) {
    const all = decisions(boxes, labels, scores, scoreThresh, nmsThresh)
    return all.filter(d => d.kept).map(d => d.box)
  }

  function nms(boxes, scores, nmsThresh) {
    const oneClass = boxes.map(() => 1)
    return nonMaxSuppression(boxes, oneClass, scores, -Infinity, nmsThresh)
  }

  // ---- precision and recall

  // After each detection, by falling score; `hits` are 1 for a true, 0 for a false positive.
  function precisionRecall(hits, nObjects) {
    let found = 0
    const counts = hits.map(hit => found += hit)
    const precision = counts.map((n, i) => n / (i + 1))
    const recall = counts.map(n => n / Math.max(nObjects, 1))
    return {precision, recall}
  }

  // Best precision at each detection or a later one.
  const bestAhead = precision => precision.map((_, i) => Math.max(...precision.slice(i)))

  // Area under the curve of the best precision at each recall or further on ("all points").
  function averagePrecision(precision, recall) {
    const heights = bestAhead(precision)
    const widths = recall.map((r, i) => r - (i ? recall[i - 1] : 0))
    return heights.reduce((sum, height, i) => sum + height * widths[i], 0)
  }

  // The evaluation chapter's example, in pixels of pictures of 200 x 200: five stars in three
  // pictures, and twelve detections [picture, score, x1, y1, x2, y2, hit] by falling score.
  const twelve = () => ({
    stars: [
      [[20, 20, 100, 100], [110, 110, 190, 190]],
      [[60, 60, 140, 140]],
      [[10, 100, 90, 180], [110, 20, 190, 100]],
    ],
    detections: [
      [0, .95, 24, 20, 104, 100, 1],
      [1, .90, 140, 5, 195, 60, 0],
      [2, .85, 10, 110, 90, 190, 1],
      [0, .80, 100, 110, 180, 190, 1],
      [0, .70, 20, 36, 100, 116, 0],
      [2, .60, 140, 50, 195, 105, 0],
      [1, .55, 60, 70, 140, 150, 1],
      [2, .45, 100, 130, 180, 195, 0],
      [1, .40, 72, 60, 152, 140, 0],
      [0, .35, 120, 10, 190, 80, 0],
      [2, .25, 60, 10, 130, 100, 0],
      [1, .20, 5, 140, 75, 195, 0],
    ],
  })

  return {
    area, corners, cxcywh, intersection, iou, argmax, anchorBoxes, match, decode, encode, focal,
    decisions, nonMaxSuppression, nms, precisionRecall, bestAhead, averagePrecision, twelve,
    figures: {},
  }
})()
