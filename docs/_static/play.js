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

  // Cut off at the edges of the picture.
  const clip = box => box.map(v => Math.min(Math.max(v, 0), 1))

  // Place of the largest value, the first one if there are several; -1 if there is none.
  const argmax = values => values.indexOf(Math.max(...values))

  // ---- drawn shapes

  // `n` corners around the origin at the given radii in turn; the first points up.
  function ring(n, radii = [1]) {
    return Array.from({length: n}, (_, i) => {
      // y grows downwards in an image, so -90 degrees points up
      const angle = 2 * Math.PI * i / n - Math.PI / 2
      const radius = radii[i % radii.length]
      return [radius * Math.cos(angle), radius * Math.sin(angle)]
    })
  }

  function heartCorner(i) {
    const t = i * Math.PI / 36
    const y = 13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t)
    return [16 * Math.sin(t) ** 3, -y]
  }

  const OUTLINES = {
    arrow: [[-1, -.4], [.1, -.4], [.1, -1], [1, 0], [.1, 1], [.1, .4], [-1, .4]],
    circle: ring(72),
    cross: [
      [.35, 1], [.35, .35], [1, .35], [1, -.35], [.35, -.35], [.35, -1],
      [-.35, -1], [-.35, -.35], [-1, -.35], [-1, .35], [-.35, .35], [-.35, 1],
    ],
    diamond: ring(4),
    heart: Array.from({length: 72}, (_, i) => heartCorner(i)),
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    star: ring(10, [1, .45]),
    triangle: ring(3),
  }

  function turn(points, degrees) {
    const c = Math.cos(degrees * Math.PI / 180)
    const s = Math.sin(degrees * Math.PI / 180)
    return points.map(([x, y]) => [x * c - y * s, x * s + y * c])
  }

  // The smallest box around points.
  function around(points) {
    const xs = points.map(p => p[0])
    const ys = points.map(p => p[1])
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)]
  }

  // Corners of an outline that is turned, and then stretched until it fills the box.
  function fit(outline, [x1, y1, x2, y2], degrees = 0) {
    const turned = turn(outline, degrees)
    const [left, top, right, bottom] = around(turned)
    return turned.map(([x, y]) => [
      x1 + (x2 - x1) * (x - left) / (right - left),
      y1 + (y2 - y1) * (y - top) / (bottom - top),
    ])
  }

  const shapeCorners = (name, box, degrees) => fit(OUTLINES[name], box, degrees)

  // The example of the chapters: a star and a heart, and five anchors over them.
  const toy = () => ({
    names: ['star', 'heart'],
    boxes: [[.1, .2, .5, .6], [.5, .5, .9, 1]],
    anchors: [
      [0, 0, .5, .5], [0, .5, .5, 1], [.5, 0, 1, .5], [.5, .5, 1, 1], [.25, .25, .75, .75],
    ],
  })

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

  // ---- losses

  const sigmoid = x => 1 / (1 + Math.exp(-x))

  // log(1 + exp(x)), without an overflow.
  const softplus = x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))

  // Cross-entropy of a logit and a target in [0,1].
  const bce = (x, target) => softplus(x) - x * target

  // Loss of one prediction that gives the truth the probability p. The weight is alpha where
  // the class is there, 1 - alpha where it is not.
  function focal(p, gamma, weight) {
    return -weight * (1 - p) ** gamma * Math.log(Math.max(p, 1e-38))
  }

  // How much a prediction counts, with the defaults of the library's losses.
  const classWeights = {
    focal: (x, target) => (target ? .25 : .75) * Math.abs(target - sigmoid(x)),
    hard_negatives: () => 1,
    varifocal: (x, target) => target > 0 ? target : 3 * sigmoid(x) ** 2,
  }

  function giou(a, b) {
    const both = [
      Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3]),
    ]
    // two points in one place have nothing around them
    const outer = Math.max(area(both), 1e-12)
    const shared = area(intersection(a, b))
    const union = area(a) + area(b) - shared
    return shared / Math.max(union, 1e-12) - (outer - union) / outer
  }

  const smoothL1 = d => Math.abs(d) < 1 ? d * d / 2 : Math.abs(d) - .5

  const boxLosses = {
    offsets(anchor, acts, box) {
      const wanted = encode('SSDCoder', box, cxcywh(anchor))
      const parts = acts.map((a, i) => smoothL1(a - wanted[i]))
      return parts.reduce((sum, v) => sum + v) / 4
    },
    giou: (anchor, acts, box) => 3 * (1 - giou(decode('SSDCoder', acts, cxcywh(anchor)), box)),
  }

  // Whether an anchor counts for its classes: an ignored one does not, and of the background
  // anchors, where only hard ones count, only the worst do, three for each positive one.
  function counting(labels, logits, classLoss) {
    const counts = labels.map(label => label >= 0)
    if (classLoss !== 'hard_negatives') return counts
    const cost = logits.map(row => row.reduce((sum, x) => sum + softplus(x), 0))
    const negatives = [...labels.keys()].filter(a => labels[a] === 0)
    negatives.sort((a, b) => cost[b] - cost[a])
    const most = 3 * Math.max(labels.filter(label => label > 0).length, 1)
    for (const a of negatives.slice(most)) counts[a] = false
    return counts
  }

  // MultiBoxLoss of one picture with SSDCoder: for each anchor its label, class and box loss,
  // divided by the number of positive anchors. `logits` are those of the real classes.
  function multiBoxLoss(anchors, logits, acts, boxes, labels, classLoss, boxLoss) {
    const found = match(anchors, boxes, labels, .5, .4)
    const n = Math.max(found.labels.filter(label => label > 0).length, 1)
    const counts = counting(found.labels, logits, classLoss)
    const target = (a, column) => {
      if (found.labels[a] !== column + 1) return 0
      if (classLoss !== 'varifocal') return 1
      const box = decode('SSDCoder', acts[a], cxcywh(anchors[a]))
      return iou(box, boxes[found.index[a]])
    }
    const one = (x, t) => classWeights[classLoss](x, t) * bce(x, t)
    const classTerm = a => {
      const losses = logits[a].map((x, column) => one(x, target(a, column)))
      return counts[a] ? losses.reduce((sum, v) => sum + v) / n : 0
    }
    const boxTerm = a => {
      if (found.labels[a] <= 0) return 0
      return boxLosses[boxLoss](anchors[a], acts[a], boxes[found.index[a]]) / n
    }
    const rows = [...anchors.keys()]
    const classTerms = rows.map(classTerm)
    const boxTerms = rows.map(boxTerm)
    return {labels: found.labels, index: found.index, classTerms, boxTerms}
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
    area, corners, cxcywh, intersection, iou, clip, argmax, OUTLINES, turn, around, fit,
    shapeCorners, anchorBoxes, match, decode, encode, sigmoid, focal, giou,
    multiBoxLoss, decisions,
    nonMaxSuppression, nms, precisionRecall, bestAhead, averagePrecision, twelve, toy,
    figures: {},
  }
})()
