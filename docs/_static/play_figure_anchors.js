// Anchors of some grids, zooms and ratios over two objects: how many there are, how well the
// best ones fit, and how many are positive.
(() => {
  const {anchorBoxes, argmax, match, toy} = play
  const {set, el, edges, count, shapePoints} = play.draw
  const {figure, choices, table, draggable, DRAG_HINT} = play.draw
  const {names: NAMES} = toy()
  const LABELS = [1, 2]
  const RATIOS = [[1, 1], [1, .5], [.5, 1]]

  function countLine(grids, zooms, ratios, n) {
    const cells = grids.map(g => g * g)
    const sum = cells.length > 1 ? `(${cells.join(' + ')})` : cells[0] ?? 0
    const kinds = `${count(zooms.length, 'zoom')} x ${count(ratios.length, 'ratio')}`
    return `${sum} cells x ${kinds} = ${count(n, 'anchor')}`
  }

  // Anchors that are positive for an object, and whether its forced match is among them.
  function positives(anchors, boxes, thresh) {
    const {labels, index, forcedBy} = match(anchors, boxes, LABELS, thresh)
    return NAMES.map((_, i) => {
      const n = labels.filter((label, a) => label > 0 && index[a] === i).length
      return [n, forcedBy.includes(i)]
    })
  }

  play.figures.anchors = div => {
    const {boxes} = toy()
    const choose = (legend, values, names, on) => {
      return choices(legend, values, names, on, () => update())
    }
    const [grids, chosenGrids] = choose('grids', [4, 2, 1], ['4x4', '2x2', '1x1'], 0)
    const [zooms, chosenZooms] = choose('zooms', [.7, 1, 1.3], ['0.7', '1', '1.3'], 1)
    const stretched = ['1 : 1', '1 : 0.5', '0.5 : 1']
    const [ratios, chosenRatios] = choose('ratios', RATIOS, stretched, 0)
    const heads = ['object', 'best IoU', 'positive at 0.5', 'positive at 0.4']
    const [shown, fill] = table('Positive anchors of each object', heads)
    const [svg, say] = figure(div, {
      view: '-17 -17 134 134',
      label: 'Anchors over a picture with a star and a heart, which can be moved',
      hint: 'Gold: the forced match of each object, the anchor with its best IoU; it is ' +
        'always positive. Thick, in the colour of the object: more anchors that are ' +
        'positive at 0.4. ' +
        DRAG_HINT,
    }, el('div', {class: 'play-choices'}, grids, zooms, ratios), shown)
    const shapes = NAMES.map(name => el('polygon', {class: `play-shape play-${name}`}))
    const drawn = el('g', {class: 'play-anchors'})
    svg.append(el('rect', {class: 'play-picture', width: 100, height: 100}), ...shapes, drawn)

    function drawAnchors(anchors) {
      const {labels, index, forcedBy} = match(anchors, boxes, LABELS, .4)
      const kinds = {background: [], positive: [], forced: []}
      anchors.forEach((box, a) => {
        const rect = el('rect', edges(box))
        const positive = labels[a] > 0 ? 'positive' : 'background'
        const kind = forcedBy[a] >= 0 ? 'forced' : positive
        kinds[kind].push(set(rect, {class: `play-${kind} play-${NAMES[index[a]]}`}))
      })
      // the forced matches last, on top
      drawn.replaceChildren(...kinds.background, ...kinds.positive, ...kinds.forced)
    }

    function update() {
      const chosen = [chosenGrids(), chosenZooms(), chosenRatios()]
      const anchors = anchorBoxes(...chosen)
      const {ious} = match(anchors, boxes, LABELS, .5)
      const at = [.5, .4].map(thresh => positives(anchors, boxes, thresh))
      shapes.forEach((shape, i) => set(shape, {points: shapePoints(NAMES[i], boxes[i])}))
      drawAnchors(anchors)
      fill(NAMES.map((name, i) => {
        const best = anchors.length ? Math.max(...ious[i]).toFixed(3) : '-'
        return [name, best, ...at.map(all => `${all[i][0]}`)]
      }))
      const lost = anchors.length > 0 && !at[0][0][1]
      say(
        countLine(...chosen, anchors.length),
        !anchors.length && 'Without anchors nothing can be found.',
        lost && `Anchor ${argmax(ious[0])} is the best one for both: the heart comes later ` +
          'and gets it, so the star has no forced match.',
      )
    }
    draggable(svg, boxes, NAMES, update)
  }
})()
