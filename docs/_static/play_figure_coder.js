// One anchor, four activations, and the box that a coder makes of them.
(() => {
  const {corners, cxcywh, decode, encode, iou} = play
  const {set, el, edges, numbers, shapePoints} = play.draw
  const {figure, slider, choices, button, table} = play.draw
  // the anchor of the second cell in both directions of a 4x4 grid
  const ANCHOR = [.375, .375, .25, .25]
  const CELL = [.25, .25]
  const STAR = [.1, .2, .5, .6]
  const MOST = 6
  const CODERS = ['TanhCoder', 'SSDCoder']
  const SLIDERS = ['centre x', 'centre y', 'width', 'height']

  const FORMULAS = {
    TanhCoder: 'centre + tanh(a) / 2 · cell, size · (1 + tanh(a) / 2)',
    SSDCoder: 'centre + 0.1 a · size, size · exp(0.2 a)',
  }
  const LIMITS = {
    TanhCoder: 'Whatever the activations: the centre stays in its cell (shaded), ' +
      'the box in the dotted frame.',
    SSDCoder: 'The centre may lie anywhere (shaded), the size grows up to 62.5 times.',
  }

  // How far the sliders take the centre and the width, and how far any activation would.
  function reach(coder) {
    const at = a => cxcywh(decode(coder, [a, a, a, a], ANCHOR, CELL))
    const least = at(-MOST)
    const most = at(MOST)
    return {
      centre: `±${(most[0] - ANCHOR[0]).toFixed(3)}`,
      size: `${least[2].toFixed(3)} to ${most[2].toFixed(3)}`,
    }
  }

  play.figures.coder = div => {
    const names = ['TanhCoder', 'SSDCoder (variances 0.1, 0.2)']
    const [coders, chosen] = choices('coder', CODERS, names, 0, () => update(), 'radio')
    const sliders = SLIDERS.map((name, i) => {
      return slider(`a${i}: ${name}`, [-MOST, MOST, .1, 0], () => update())
    })
    const put = acts => {
      sliders.forEach(([, , putOne], i) => putOne(acts[i]))
      update()
    }
    const fitted = button('Fit the star', () => put(encode(chosen()[0], STAR, ANCHOR, CELL)))
    const reset = button('All zero', () => put([0, 0, 0, 0]))
    const limit = `within ±${MOST}`
    const heads = [`reach ${limit}`, 'centre moves', 'width, from 0.25']
    const [shown, fill] = table('Reach of the two coders', heads)
    const rows = sliders.map(([row]) => row)
    const [svg, say] = figure(div, {
      view: '-4 -4 108 108', role: 'img',
      label: 'An anchor, the box decoded from it, and a star to be framed',
      hint: 'Dashed: the anchor, one of a 4x4 grid, with its centre. Blue: the decoded box. ' +
        'Orange: the ground truth. Move the sliders with mouse, finger or arrow keys.',
    }, coders, ...rows, el('div', {class: 'play-buttons'}, fitted, reset), shown)

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
      el('rect', {class: 'play-anchor-line', ...edges(corners(ANCHOR))}),
      el('path', {class: 'play-anchor-line', d: 'M36 37.5h3M37.5 36v3'}),
      box,
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
      fill(CODERS.map(name => {
        const {centre, size} = reach(name)
        const kind = name === coder ? 'play-chosen' : ''
        return [[name, kind], [centre, kind], [size, kind]]
      }))
      say(
        FORMULAS[coder],
        `centre (${x.toFixed(3)}, ${y.toFixed(3)}), size ${w.toFixed(3)} x ${h.toFixed(3)}`,
        `box ${numbers(decoded)}, IoU with the star ${iou(decoded, STAR).toFixed(3)}`,
        LIMITS[coder],
      )
    }
    update()
  }
})()
