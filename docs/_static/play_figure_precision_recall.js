// Twelve detections of five stars: a threshold on the score, and its place on the curve.
(() => {
  const {argmax, averagePrecision, bestAhead, iou, precisionRecall, twelve} = play
  const {set, el, edges, shapePoints, figure, slider, table} = play.draw
  const {stars, detections} = twelve()
  const N_OBJECTS = stars.flat().length
  const SIDE = 200    // of a picture, in its pixels
  const SMALL = .32   // of a picture in the drawing
  const TOP = 44      // of the curve in the drawing
  const HEIGHT = 60

  const hits = detections.map(d => d[6])
  const {precision, recall} = precisionRecall(hits, N_OBJECTS)
  const best = bestAhead(precision)
  const x = r => 100 * r
  const y = p => TOP + HEIGHT * (1 - p)

  // A box in pixels of one of the three pictures, in the unit of the drawing.
  const placed = (box, picture) => box.map((v, k) => {
    return v / SIDE * SMALL + (k % 2 ? 0 : .34 * picture)
  })

  // Each hit is on the star that it overlaps most.
  const starOf = ([picture, , ...box]) => {
    return argmax(stars[picture].map(star => iou(star, box.slice(0, 4))))
  }

  function curve() {
    const points = recall.map((r, i) => `${x(r)} ${y(precision[i]).toFixed(2)}`)
    return `M0 ${y(1)}L${points.join('L')}`
  }

  // Ranks of hits at the left top, of the others at the right bottom: they never meet.
  function rankPlace([left, top, right, bottom], hit) {
    if (hit) return {x: 100 * left + .8, y: 100 * top + 3.6}
    return {x: 100 * right - .8, y: 100 * bottom - 1, 'text-anchor': 'end'}
  }

  // Steps down from left to right; closed at the bottom they enclose the area.
  function steps() {
    const each = recall.map((r, i) => `V${y(best[i]).toFixed(2)}H${x(r)}`)
    return `M0 ${y(best[0])}${each.join('')}V${y(0)}`
  }

  function axes() {
    const left = [0, .5, 1].map(p => {
      return el('text', {x: -2.5, y: y(p) + 1.5, 'text-anchor': 'end'}, `${p}`)
    })
    const below = [0, .2, .4, .6, .8, 1].map(r => {
      return el('text', {x: x(r), y: TOP + HEIGHT + 5.5, 'text-anchor': 'middle'}, `${r}`)
    })
    const end = {y: TOP + HEIGHT + 10.5, x: 50, 'text-anchor': 'middle'}
    return [
      el('path', {class: 'play-axes', d: `M0 ${TOP}v${HEIGHT}h100`}),
      ...left, ...below,
      el('text', {x: -9, y: TOP - 4}, 'precision'),
      el('text', end, 'recall'),
    ]
  }

  const share = (part, whole) => {
    return whole ? `${part}/${whole} = ${(part / whole).toFixed(2)}` : '-'
  }

  play.figures['precision-recall'] = div => {
    const [thresholdRow, threshold] = slider('score threshold', [0, 1, .01, .5], () => update())
    const [shown, fill] = table('Counts and rates', ['at the threshold', 'meaning', 'value'])
    const ap = averagePrecision(precision, recall)
    const [svg, say] = figure(div, {
      view: '-11 -2 115 120', role: 'img',
      label: 'Detections in three pictures, and the curve of precision over recall',
      hint: 'Boxes carry their rank by score: green and solid a true positive, red and ' +
        'dashed a false positive, grey a box under the threshold. A hollow star is a ' +
        'false negative. ' +
        'Below: precision and recall after each detection (blue), the best precision from ' +
        'there on (orange), and AP as the shaded area under it.',
    }, thresholdRow, shown)
    const pictures = stars.map((_, p) => {
      return el('rect', {class: 'play-picture', ...edges(placed([0, 0, SIDE, SIDE], p))})
    })
    const drawnStars = stars.map((all, p) => all.map(box => {
      return el('polygon', {points: shapePoints('star', placed(box, p))})
    }))
    const boxes = el('g')
    const dot = el('circle', {class: 'play-operating', r: 2})
    const rank = el('text')
    const dots = recall.map((r, i) => {
      const place = {cx: x(r), cy: y(precision[i])}
      return el('circle', {class: 'play-dot play-detections', r: .9, ...place})
    })
    svg.append(
      ...pictures, ...drawnStars.flat(), boxes, ...axes(),
      el('path', {class: 'play-ap', d: `${steps()}H0Z`}),
      el('path', {class: 'play-curve play-best', d: steps()}),
      el('path', {class: 'play-curve play-detections', d: curve()}),
      el('text', {x: 40, y: y(.3), 'text-anchor': 'middle'}, `AP ${ap.toFixed(3)}`),
      ...dots, dot, rank,
    )

    function drawBoxes(n) {
      const found = stars.map(all => all.map(() => false))
      const drawn = detections.flatMap((d, i) => {
        const [picture, , ...rest] = d
        const box = placed(rest.slice(0, 4), picture)
        const kind = i >= n ? 'under' : hits[i] ? 'true' : 'false'
        if (kind === 'true') found[picture][starOf(d)] = true
        const place = rankPlace(box, hits[i])
        return [
          el('rect', {...edges(box), class: `play-detection play-${kind}`}),
          el('text', {...place, class: `play-rank play-${kind}`}, `${i + 1}`),
        ]
      })
      boxes.replaceChildren(...drawn)
      drawnStars.forEach((all, p) => all.forEach((star, s) => {
        set(star, {class: `play-shape ${found[p][s] ? 'play-star' : 'play-missed'}`})
      }))
    }

    function update() {
      const n = detections.filter(d => d[1] >= threshold()).length
      const tp = hits.slice(0, n).reduce((sum, hit) => sum + hit, 0)
      drawBoxes(n)
      const at = n ? [recall[n - 1], precision[n - 1]] : [0, 1]
      set(dot, {cx: x(at[0]), cy: y(at[1])})
      // under the curve's first line, or to the right of the dot
      set(rank, {x: x(at[0]) + 3.5, y: y(at[1]) + (at[1] < 1 ? 1.5 : 6)})
      rank.textContent = n ? `after ${n}` : 'none'
      fill([
        ['TP', 'true positives: stars found', `${tp}`],
        ['FP', 'false positives: other detections', `${n - tp}`],
        ['FN', 'false negatives: stars not found', `${N_OBJECTS - tp}`],
        ['precision', 'TP / (TP + FP)', share(tp, n)],
        ['recall', 'TP / (TP + FN)', share(tp, N_OBJECTS)],
      ])
      say(
        `${n} of ${detections.length} detections score at least ${threshold().toFixed(2)}.`,
        n ? '' : 'No detections: precision is not defined.',
        `AP ${ap.toFixed(3)} is the whole shaded area; it does not depend on the threshold.`,
      )
    }
    update()
  }
})()
