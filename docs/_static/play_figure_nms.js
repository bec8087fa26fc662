// Non-maximum suppression of a detector's boxes, all at once or decision by decision.
(() => {
  const {decisions, iou} = play
  const {el, edges, count, figure, slider, button, table} = play.draw
  const COLORS = 8
  const NAMED = 6  // more names than this would lie on each other

  // A kept box between two better ones of its class: it overlaps both, neither one enough.
  function between(kept, boxes, labels) {
    for (const [n, i] of kept.entries()) {
      const better = kept.slice(0, n).filter(k => labels[k] === labels[i])
      const near = better.filter(k => iou(boxes[k], boxes[i]) > .2)
      if (near.length > 1) return [i, near[0], near[1]]
    }
  }

  function iouRange(all) {
    const values = all.map(d => d.iou)
    if (!values.length) return '-'
    const low = Math.min(...values).toFixed(2)
    const high = Math.max(...values).toFixed(2)
    return low === high ? low : `${low} to ${high}`
  }

  play.figures.nms = div => {
    const rows = JSON.parse(div.dataset.boxes)
    const boxes = rows.map(r => r.slice(0, 4))
    const labels = rows.map(r => r[4])
    const scores = rows.map(r => r[5])
    const classes = [...new Set(labels)]
    const color = i => `play-color${classes.indexOf(labels[i]) % COLORS}`
    const named = i => `${labels[i]} ${scores[i].toFixed(2)}`

    const [scoreRow, scoreThresh] = slider('score_thresh', [.1, 1, .01, .3], () => begin())
    const [nmsRow, nmsThresh] = slider('nms_thresh', [0, 1, .01, .5], () => begin())
    const [stepRow, step, putStep] = slider('decisions', [0, 1, 1, 0], () => update())
    const next = button('', () => {
      putStep(step() < all.length ? step() + 1 : 0)
      update()
    })
    const [shown, fill] = table('Kept boxes', ['kept', 'suppressed by it', 'IoU with them'])
    const [svg, say] = figure(div, {
      view: '0 0 100 100', role: 'img', after: [shown],
      label: 'Boxes over a picture, before and after non-maximum suppression',
      hint: 'Bright: kept. Faint: suppressed, or not yet decided. White: the box in ' +
        'question, dashed the kept box that it overlaps. Boxes under score_thresh are ' +
        'not drawn.',
    }, scoreRow, nmsRow, stepRow, el('div', {class: 'play-buttons'}, next))
    const drawn = el('g')
    const stretch = {width: 100, height: 100, preserveAspectRatio: 'none'}
    svg.append(el('image', {href: div.dataset.image, ...stretch}), drawn)

    let all = []
    function begin() {
      all = decisions(boxes, labels, scores, scoreThresh(), nmsThresh())
      putStep(all.length, all.length)
      update()
    }

    const drawBox = (i, kind) => el('rect', {...edges(boxes[i]), class: kind})

    function drawNames(kept) {
      const taken = []
      return kept.slice(0, NAMED).map(i => {
        const x = 100 * boxes[i][0] + 1
        let y = 100 * boxes[i][1] + 4
        // under the names that are there already
        const on = ([a, b]) => Math.abs(a - x) < 22 && Math.abs(b - y) < 4
        while (taken.some(on)) y += 1
        taken.push([x, y])
        return el('text', {x, y, class: color(i)}, named(i))
      })
    }

    function drawQuestion({box, rival}) {
      const dashed = rival < 0 ? [] : [drawBox(rival, 'play-rival')]
      return [...dashed, drawBox(box, 'play-question')]
    }

    function decisionLine({box, kept, rival, iou}) {
      const start = `Decision ${step()} of ${all.length}: ${named(box)}`
      const limit = `nms_thresh ${nmsThresh().toFixed(2)}`
      if (rival < 0) return `${start} is kept, the best ${labels[box]} of all.`
      if (kept)
        return `${start} is kept: its IoU with ${named(rival)}, the kept box it overlaps ` +
          `most, is ${iou.toFixed(2)}, not more than ${limit}.`
      return `${start} is suppressed by ${named(rival)}: IoU ${iou.toFixed(2)}, ` +
        `more than ${limit}.`
    }

    function betweenLine(kept) {
      const found = between(kept, boxes, labels)
      if (!found) return ''
      const [i, a, b] = found
      const ious = [a, b].map(k => iou(boxes[k], boxes[i]).toFixed(2))
      return `${named(i)} lies between two better boxes. Its IoU is ${ious[0]} with one and ` +
        `${ious[1]} with the other, so neither suppresses it at ` +
        `${nmsThresh().toFixed(2)}: a false positive, unless it has an object of its own.`
    }

    function totals(kept) {
      const perClass = classes.map(c => [kept.filter(i => labels[i] === c).length, c])
      const some = perClass.filter(([n]) => n).map(([n, c]) => `${c} ${n}`)
      return some.length ? `Kept: ${some.join(', ')}.` : ''
    }

    function update() {
      const done = all.slice(0, step())
      const kept = done.filter(d => d.kept).map(d => d.box)
      const lost = done.filter(d => !d.kept)
      const finished = step() === all.length
      const faint = all.map(d => d.box).filter(i => !kept.includes(i))
      drawn.replaceChildren(
        ...faint.map(i => drawBox(i, `${color(i)} play-faint`)),
        ...kept.map(i => drawBox(i, `${color(i)} play-kept`)),
        ...(done.length && !finished ? drawQuestion(done.at(-1)) : []),
        ...drawNames(kept),
      )
      next.textContent = finished ? 'Step by step, from the start' : 'Next decision'
      next.disabled = !all.length
      const lines = kept.slice(0, NAMED).map(i => {
        const own = lost.filter(d => d.rival === i)
        return [named(i), `${own.length}`, iouRange(own)]
      })
      const more = kept.length - lines.length
      fill(more ? [...lines, [`and ${more} more`, '', '']] : lines)
      const above = `${count(all.length, 'box', 'boxes')} with a score of at least ` +
        scoreThresh().toFixed(2)
      if (finished) say(
        `${above}: ${kept.length} kept, ${lost.length} suppressed`, totals(kept),
        betweenLine(kept))
      else say(
        `${above}: ${kept.length} kept, ${lost.length} suppressed so far`,
        done.length ? decisionLine(done.at(-1)) : 'The box with the best score comes first.')
    }
    begin()
  }
})()
