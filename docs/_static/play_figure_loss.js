// The loss by hand: five anchors, a star and a heart; one anchor's numbers can be moved, and
// every term of the loss moves with them.
(() => {
  const {cxcywh, decode, multiBoxLoss, toy} = play
  const {el, set, edges, shapePoints, figure, slider, choices, button, table} = play.draw
  const {names: NAMES, boxes: BOXES, anchors: ANCHORS} = toy()
  const CLASS_LOSSES = ['focal', 'hard_negatives', 'varifocal']
  const BOX_LOSSES = ['offsets', 'giou']
  const LOGITS = ['logit star', 'logit heart']
  const OFFSETS = ['centre x', 'centre y', 'width', 'height']

  const sum = values => values.reduce((total, v) => total + v, 0)
  const decoded = (a, acts) => decode('SSDCoder', acts, cxcywh(ANCHORS[a]))

  play.figures.loss = div => {
    // two logits and four offsets of each anchor
    const numbers = ANCHORS.map(() => [0, 0, 0, 0, 0, 0])
    const choose = (legend, values, on) => {
      return choices(legend, values, values, on, () => update(), 'radio')
    }
    const [classRow, classLoss] = choose('class loss', CLASS_LOSSES, 0)
    const [boxRow, boxLoss] = choose('box loss', BOX_LOSSES, 0)
    const [anchorRow, anchor] = choices(
      'anchor', [...ANCHORS.keys()], ANCHORS.map((_, a) => `${a}`), 0, () => follow(), 'radio')
    const sliders = [...LOGITS, ...OFFSETS].map((name, i) => {
      return slider(name, [-6, 6, .1, 0], () => {
        numbers[anchor()[0]][i] = sliders[i][1]()
        update()
      })
    })
    const reset = button('All zero', () => {
      numbers.forEach(row => row.fill(0))
      follow()
    })
    const heads = ['anchor', 'target', 'class loss', 'box loss']
    const [shown, fill] = table('Terms of the loss', heads)
    const rows = sliders.map(([row]) => row)
    const [svg, say] = figure(div, {
      view: '-4 -4 108 108', role: 'img', after: [shown],
      label: 'Five anchors over a star and a heart, and the box of the chosen anchor',
      hint: 'Dashed: the chosen anchor. Blue: its decoded box. The terms are those of ' +
        'MultiBoxLoss, divided already by the number of positive anchors; with varifocal ' +
        'loss the class loss moves with the box, too.',
    }, classRow, boxRow, anchorRow, ...rows, el('div', {class: 'play-buttons'}, reset))
    const outline = el('rect', {class: 'play-anchor-line'})
    const box = el('rect', {class: 'play-decoded'})
    svg.append(
      el('rect', {class: 'play-picture', width: 100, height: 100}),
      ...NAMES.map((name, i) => {
        const points = shapePoints(name, BOXES[i])
        return el('polygon', {class: `play-shape play-${name}`, points})
      }),
      el('g', {class: 'play-anchors'}, ...ANCHORS.map(a => {
        return el('rect', {...edges(a), class: 'play-background'})
      })),
      outline, box,
      ...ANCHORS.map(([x1, y1], a) => {
        return el('text', {x: 100 * x1 + 3, y: 100 * y1 + 6, class: 'play-number'}, `${a}`)
      }),
    )

    // The sliders show the numbers of the anchor that was chosen.
    function follow() {
      const own = numbers[anchor()[0]]
      sliders.forEach(([, , put], i) => put(own[i]))
      update()
    }

    function update() {
      const [chosen] = anchor()
      const logits = numbers.map(row => row.slice(0, 2))
      const acts = numbers.map(row => row.slice(2))
      const {labels, classTerms, boxTerms} = multiBoxLoss(
        ANCHORS, logits, acts, BOXES, [1, 2], classLoss()[0], boxLoss()[0])
      set(outline, edges(ANCHORS[chosen]))
      set(box, edges(decoded(chosen, acts[chosen])))
      fill(ANCHORS.map((_, a) => {
        const target = labels[a] > 0 ? NAMES[labels[a] - 1] : 'background'
        const terms = [classTerms[a].toFixed(3), labels[a] > 0 ? boxTerms[a].toFixed(3) : '-']
        return [`${a}`, target, ...terms].map(t => [t, a === chosen ? 'play-chosen' : ''])
      }))
      const ofClasses = sum(classTerms)
      const ofBoxes = sum(boxTerms)
      say(`Loss ${(ofClasses + ofBoxes).toFixed(3)} = class loss ${ofClasses.toFixed(3)} + ` +
        `box loss ${ofBoxes.toFixed(3)}`)
    }
    update()
  }
})()
