// One anchor, four activations, and the box that a coder makes of them.
(() => {
  const {corners, cxcywh, decode, encode, iou, toy} = play
  const {set, el, edges, numbers, shapePoints} = play.draw
  const {figure, slider, choices, button, table} = play.draw
  // the anchor of the second cell in both directions of a 4x4 grid
  const ANCHOR = [.375, .375, .25, .25]
  const CELL = [.25, .25]
  const [STAR] = toy().boxes
  const MOST = 6
  const CODERS = ['TanhCoder', 'SSDCoder']
  const SLIDERS = ['centre x', 'centre y', 'width', 'height']

  const FORMULAS = {
    TanhCoder: 'centre + tanh(a) / 2 · cell, size · (1 + tanh(a) / 2)',
    SSDCoder: 'centre + 0.1 a · size, size · exp(0.2 a)',  // with its variances, 0.1 and 0.2
  }
  const LIMITS = {
    TanhCoder: 'Whatever the activations: the centre stays in its cell (shaded), ' +
      'the box in the dotted frame.',
    SSDCoder: 'The centre may lie anywhere (shaded), the size grows up to 62.5 times.',
  }

  // Centre and width at the most that activations of a size can do.
  function reach(coder, a) {
    const [x, , width] = cxcywh(decode(coder, [a, a, a, a], ANCHOR, CELL))
    const moved = x - ANCHOR[0]
    return {centre: moved > 62.5 ? 'none' : `±${moved.toFixed(3)}`, width: width.toFixed(3)}
  }

  function reachRows(chosen) {
    return CODERS.flatMap(coder => ['centre', 'width'].map(what => {
      const values = [2, MOST, 1e6].map(a => reach(coder, a)[what])
      const kind = coder === chosen ? 'play-chosen' : ''
      return [`${coder}, ${what}`, ...values].map(text => [text, kind])
    }))
  }

  play.figures.coder = div => {
    const [coders, chosen] = choices('coder', CODERS, CODERS, 0, () => update(), 'radio')
    const sliders = SLIDERS.map((name, i) => {
      return slider(`a${i}: ${name}`, [-MOST, MOST, .05, 0], () => update())
    })
    const put = acts => {
      sliders.forEach(([, , putOne], i) => putOne(acts[i]))
      update()
    }
    const fitted = button('Fit the star', () => put(encode(chosen()[0], STAR, ANCHOR, CELL)))
    const reset = button('All zero', () => put([0, 0, 0, 0]))
    const heads = ['reach', 'a = 2', `a = ${MOST}`, 'limit']
    const [shown, fill] = table('Reach of the two coders', heads)
    const rows = sliders.map(([row]) => row)
    const [svg, say] = figure(div, {
      view: '-4 -4 108 108', role: 'img', after: [shown],
      label: 'An anchor, the box decoded from it, and a star to be framed',
      hint: 'Dashed: the anchor, one of a 4x4 grid; with all zero the box is the anchor. ' +
        'Blue: the decoded box and its centre. Orange: the ground truth. The table: how ' +
        'far the centre moves and how wide the box gets with activations of 2, of 6, ' +
        'and at most. Sliders: mouse, finger or arrow keys.',
    }, coders, ...rows, el('div', {class: 'play-buttons'}, fitted, reset))

    const cell = corners([...ANCHOR.slice(0, 2), ...CELL])
    // centre at the edge of the cell, size at one and a half: no box of TanhCoder goes further
    const farthest = CELL.map((side, i) => side + 1.5 * ANCHOR[2 + i])
    const outermost = corners([...ANCHOR.slice(0, 2), ...farthest])
    const centreReach = el('rect', {class: 'play-reach'})
    const frame = el('rect', {class: 'play-limit', ...edges(outermost)})
    const box = el('rect', {class: 'play-decoded'})
    const dot = el('circle', {class: 'play-decoded-centre', r: 1.4})
    svg.append(
      el('rect', {class: 'play-picture', width: 100, height: 100}),
      el('polygon', {class: 'play-shape play-star', points: shapePoints('star', STAR)}),
      centreReach,
      frame,
      el('rect', {class: 'play-truth play-star', ...edges(STAR)}),
      box,
      el('rect', {class: 'play-anchor-line', ...edges(corners(ANCHOR))}),
      dot,
    )

    function update() {
      const [coder] = chosen()
      const acts = sliders.map(([, now]) => now())
      const decoded = decode(coder, acts, ANCHOR, CELL)
      const [x, y, w, h] = cxcywh(decoded)
      set(centreReach, edges(coder === 'TanhCoder' ? cell : [0, 0, 1, 1]))
      set(frame, {visibility: coder === 'TanhCoder' ? 'visible' : 'hidden'})
      set(box, edges(decoded))
      set(dot, {cx: 100 * x, cy: 100 * y})
      fill(reachRows(coder))
      say(
        `box ${numbers(decoded)}`,
        `IoU with the star ${iou(decoded, STAR).toFixed(3)}`,
        `centre (${x.toFixed(3)}, ${y.toFixed(3)}), size ${w.toFixed(3)} x ${h.toFixed(3)}`,
        FORMULAS[coder],
        LIMITS[coder],
      )
    }
    update()
  }
})()
