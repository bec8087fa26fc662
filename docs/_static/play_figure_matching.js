// Which anchor is positive for which object: the table of IoUs, its largest values by column
// and by row, and two thresholds.
(() => {
  const {argmax, match, toy} = play
  const {set, el, edges, shapePoints} = play.draw
  const {figure, slider, table, draggable, DRAG_HINT} = play.draw
  const LABELS = [1, 2]
  const {names: NAMES, anchors: ANCHORS} = toy()

  // What becomes of each anchor: the kind is its class in the drawing and in the table.
  function targets({labels, index, forcedBy}) {
    return labels.map((label, a) => {
      const name = NAMES[index[a]]
      if (forcedBy[a] >= 0) return {kind: 'forced', name, text: `${name}\nforced`}
      if (label > 0) return {kind: 'positive', name, text: name}
      if (label < 0) return {kind: 'ignored', name: 'ignored', text: 'ignored'}
      // a soft hyphen, for the narrow columns of a phone
      return {kind: 'background', name: '', text: 'back\u00adground'}
    })
  }

  // Row of an object: shaded where the anchor overlaps no other object more, framed in gold
  // where the object overlaps no other anchor more.
  function iouRow(ious, object) {
    const best = argmax(ious[object])
    return ious[object].map((value, a) => {
      const column = ious.map(row => row[a])
      const marks = [
        value > 0 && argmax(column) === object && 'play-column-max',
        a === best && 'play-row-max',
      ]
      return [value.toFixed(2), marks.filter(Boolean).join(' ')]
    })
  }

  // The highest match_thresh at which an anchor is positive.
  function limits({ious, forcedBy}) {
    return forcedBy.map((object, a) => {
      return object < 0 ? Math.max(...ious.map(row => row[a])).toFixed(2) : 'any'
    })
  }

  function forcedLine({ious}) {
    const best = ious.map(argmax)
    if (best[0] === best[1])
      return `Both objects have their best IoU with anchor ${best[0]}: the heart comes later ` +
        'and gets it; the star has no forced match.'
    const pairs = NAMES.map((name, i) => {
      return `${name} with anchor ${best[i]} (IoU ${ious[i][best[i]].toFixed(2)})`
    })
    return `Forced matches: ${pairs.join(', ')}.`
  }

  play.figures.matching = div => {
    const {boxes} = toy()
    let zone = 0  // width of the ignore zone
    const range = [0, 1, .01, .4]
    const [matchRow, matchThresh] = slider('match_thresh', range, () => {
      putNeg(Math.max(matchThresh() - zone, 0))
      update()
    })
    const [negRow, negThresh, putNeg] = slider('neg_thresh', range, () => {
      // the ignore zone lies below match_thresh, or there is none
      putNeg(Math.min(negThresh(), matchThresh()))
      zone = matchThresh() - negThresh()
      update()
    })
    const [shown, fill] = table('IoU of objects and anchors', ['IoU', '0', '1', '2', '3', '4'])
    const [svg, say] = figure(div, {
      view: '-4 -4 108 108',
      label: 'Five anchors over a picture with a star and a heart, which can be moved',
      hint: 'From match_thresh on an anchor is positive, under neg_thresh it is background, ' +
        'in between it is ignored. Shaded: the largest IoU of a column, the object that goes ' +
        'with the anchor. Framed in gold: the largest of a row, the forced match of an ' +
        `object, positive whatever its IoU. ${DRAG_HINT}`,
    }, matchRow, negRow, shown)
    const shapes = NAMES.map(name => el('polygon', {class: `play-shape play-${name}`}))
    const drawn = el('g', {class: 'play-anchors'})
    svg.append(el('rect', {class: 'play-picture', width: 100, height: 100}), ...shapes, drawn)

    function drawAnchors(all) {
      const rects = ANCHORS.map((box, a) => {
        const {kind, name} = all[a]
        return el('rect', {...edges(box, 1), class: `play-${kind} play-${name || 'none'}`})
      })
      const names = ANCHORS.map(([x1, y1], a) => {
        const place = {x: 100 * x1 + 3, y: 100 * y1 + 6, class: 'play-number'}
        return el('text', place, `${a} ${all[a].name}`)
      })
      drawn.replaceChildren(...rects, ...names)
    }

    function update() {
      const result = match(ANCHORS, boxes, LABELS, matchThresh(), negThresh())
      const all = targets(result)
      shapes.forEach((shape, i) => set(shape, {points: shapePoints(NAMES[i], boxes[i])}))
      drawAnchors(all)
      fill([
        ...NAMES.map((name, i) => [name, ...iouRow(result.ious, i)]),
        ['positive up to', ...limits(result)],
        ['target', ...all.map(v => [v.text, `play-target-${v.kind}`])],
      ])
      const n = test => result.labels.filter(test).length
      say(
        `${n(v => v > 0)} positive, ${n(v => v === 0)} background, ${n(v => v < 0)} ignored`,
        forcedLine(result),
        negThresh() < matchThresh() &&
          `Ignored: IoU from ${negThresh().toFixed(2)} to below ${matchThresh().toFixed(2)}.`,
      )
    }
    draggable(svg, boxes, NAMES, update)
  }
})()
