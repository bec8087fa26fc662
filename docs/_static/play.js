// The figures of the docs site that move: each <div class="play" data-figure="..."> becomes one when the page has loaded.
// Boxes are [x1, y1, x2, y2] in [0,1]. The arithmetic is that of the chapters; tests/test_play.py compares them.
(() => {
  const area = ([x1, y1, x2, y2]) => Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0)
  const overlap = (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]

  function iou(a, b) {
    const inter = area(overlap(a, b))
    return inter / Math.max(area(a) + area(b) - inter, Number.MIN_VALUE)
  }

  function anchorBoxes(grids, zooms, ratios) {  // in the order of make_anchors
    const centres = g => [...Array(g).keys()].map(i => (i + .5) / g)
    const around = (x, y, w, h) => [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    return grids.flatMap(g => centres(g).flatMap(x => centres(g).flatMap(y =>
      zooms.flatMap(z => ratios.map(([w, h]) => around(x, y, z * w / g, z * h / g))))))
  }

  // Loss of one answer: p is the probability given to the truth, alpha its weight (1 - alpha where the truth is no).
  const focal = (p, gamma, alpha) => -alpha * (1 - p) ** gamma * Math.log(Math.max(p, 1e-38))

  function nms(boxes, scores, thresh) {  // numbers of the boxes that stay, best first
    const kept = []
    for (const i of [...scores.keys()].sort((i, j) => scores[j] - scores[i]))
      if (kept.every(k => iou(boxes[k], boxes[i]) <= thresh)) kept.push(i)
    return kept
  }

  function suppress(boxes, labels, scores, scoreThresh, iouThresh) {  // the same, class by class
    const ofClass = label => [...scores.keys()].filter(i => labels[i] === label && scores[i] >= scoreThresh)
    const stay = rows => nms(rows.map(i => boxes[i]), rows.map(i => scores[i]), iouThresh).map(k => rows[k])
    return [...new Set(labels)].flatMap(label => stay(ofClass(label))).sort((i, j) => scores[j] - scores[i])
  }

  globalThis.play = {iou, anchorBoxes, focal, nms, suppress}
  if (!globalThis.document) return

  // ---- parts of figures; the unit of drawings is a hundredth of the picture's side

  function el(name, attributes = {}, ...children) {
    const drawn = /^(svg|g|rect|circle|path|polygon|text|image)$/.test(name)
    const e = drawn ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name)
    e.append(...children)
    return set(e, attributes)
  }
  function set(e, attributes) {
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
    return e
  }
  const edges = ([x1, y1, x2, y2]) => ({x: 100 * x1, y: 100 * y1, width: Math.max(100 * (x2 - x1), 0), height: Math.max(100 * (y2 - y1), 0)})
  const numbers = box => `(${box.map(v => v.toFixed(2)).join(', ')})`

  function figure(div, {view, label, hint, role = 'group'}, ...controls) {
    const svg = el('svg', {viewBox: view, role, 'aria-label': label}), text = el('p', {class: 'play-text', 'aria-live': 'polite'})
    div.replaceChildren(svg, ...controls, text, el('p', {class: 'play-hint'}, hint))
    return [svg, (...lines) => { text.textContent = lines.join('\n') }]
  }

  function slider(label, [min, max, step, value], changed) {
    const input = el('input', {type: 'range', min, max, step, value, autocomplete: 'off'}), shown = el('output', {}, (+value).toFixed(2))
    input.oninput = () => { shown.value = (+input.value).toFixed(2); changed() }
    return [el('label', {class: 'play-slider'}, el('span', {}, label), input, shown), () => +input.value]
  }

  function choices(legend, values, names, on, changed) {  // `on` is the one that is chosen at first
    const inputs = values.map((_, i) => el('input', {type: 'checkbox', autocomplete: 'off', ...(i === on ? {checked: ''} : {})}))
    const labels = inputs.map((input, i) => { input.onchange = changed; return el('label', {}, input, ` ${names[i]}`) })
    return [el('fieldset', {}, el('legend', {}, legend), ...labels), () => values.filter((_, i) => inputs[i].checked)]
  }

  // Boxes that a mouse, a finger or the arrow keys move, and stretch at their bottom right corner. `boxes` is kept up to date.
  function draggable(svg, boxes, names, changed) {
    const snap = box => box.map(v => Math.round(v * 100) / 100), within = (v, low, high) => Math.min(Math.max(v, low), high)
    const moved = ([x1, y1, x2, y2], dx, dy) => {
      dx = within(dx, -x1, 1 - x2); dy = within(dy, -y1, 1 - y2)
      return [x1 + dx, y1 + dy, x2 + dx, y2 + dy]
    }
    const stretched = ([x1, y1, x2, y2], dx, dy) => [x1, y1, within(x2 + dx, x1 + .05, 1), within(y2 + dy, y1 + .05, 1)]
    const parts = names.map((name, i) => ({
      box: el('rect', {class: `play-box play-box${i}`, tabindex: 0, role: 'application',
                       'aria-label': `${name}: arrow keys move it, shift and an arrow key change its size`}),
      name: el('text', {class: 'play-name'}, name), corner: el('circle', {class: `play-corner play-box${i}`, r: 2.5})}))
    for (const kind of ['box', 'name', 'corner']) svg.append(...parts.map(p => p[kind]))

    function change(i, box) {
      boxes[i] = box = snap(box)
      set(parts[i].box, edges(box))
      set(parts[i].name, {x: 100 * box[2] - 4, y: 100 * box[3] - 3})
      set(parts[i].corner, {cx: 100 * box[2], cy: 100 * box[3]})
      changed()
    }
    function grabbed({x, y}) {  // a corner nearby, or else the smallest box under the pointer
      const near = boxes.map(b => Math.hypot(b[2] - x, b[3] - y)), i = near.indexOf(Math.min(...near))
      if (near[i] < .06) return [i, stretched]
      const under = [...boxes.keys()].filter(j => x >= boxes[j][0] && y >= boxes[j][1] && x <= boxes[j][2] && y <= boxes[j][3])
      return [under.sort((j, k) => area(boxes[j]) - area(boxes[k]))[0], moved]
    }
    const at = e => {
      const p = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse())
      return {x: p.x / 100, y: p.y / 100}
    }
    const drags = new Map()  // one for each finger
    svg.onpointerdown = e => {
      const start = at(e), [i, how] = grabbed(start)
      if (e.button || i === undefined) return
      const box = boxes[i]
      drags.set(e.pointerId, now => change(i, how(box, now.x - start.x, now.y - start.y)))
      svg.setPointerCapture(e.pointerId)
      parts[i].box.focus({preventScroll: true})
      e.preventDefault()
    }
    svg.onpointermove = e => drags.get(e.pointerId)?.(at(e))
    svg.addEventListener('touchstart', e => drags.size && e.preventDefault(), {passive: false})  // touch-action does not hold for parts of an svg
    svg.onpointerup = svg.onpointercancel = e => drags.delete(e.pointerId)
    parts.forEach((p, i) => p.box.onkeydown = e => {
      const step = {ArrowLeft: [-.01, 0], ArrowRight: [.01, 0], ArrowUp: [0, -.01], ArrowDown: [0, .01]}[e.key]
      if (!step || e.ctrlKey || e.altKey || e.metaKey) return
      e.preventDefault(); e.stopPropagation()  // the page must neither scroll nor turn
      change(i, (e.shiftKey ? stretched : moved)(boxes[i], ...step))
    })
    boxes.forEach((box, i) => change(i, box))
  }

  // ---- the four figures

  const figures = {
    iou(div) {
      const boxes = [[.1, .2, .5, .6], [0, 0, .5, .5]], shades = boxes.map((_, i) => el('rect', {class: `play-shade play-box${i}`}))
      const inter = el('rect', {class: 'play-inter'})
      const [svg, say] = figure(div, {view: '-4 -4 108 108', label: 'Two boxes that can be moved, and their intersection',
        hint: 'Drag a box, or its corner. With the keyboard: tab, arrow keys, shift and arrow keys.'})
      svg.append(el('rect', {class: 'play-frame', width: 100, height: 100}), ...shades, inter)
      draggable(svg, boxes, ['star', 'anchor'], () => {
        const [a, b] = boxes, shared = area(overlap(a, b)), union = area(a) + area(b) - shared
        shades.forEach((s, i) => set(s, edges(boxes[i])))
        set(inter, edges(shared ? overlap(a, b) : [0, 0, 0, 0]))
        say(`intersection ${shared.toFixed(4)} / union ${union.toFixed(4)} = IoU ${iou(a, b).toFixed(3)}`,
            `star ${numbers(a)}`, `anchor ${numbers(b)}`)
      })
    },

    anchors(div) {
      const boxes = [[.1, .2, .5, .6]], drawn = el('g', {class: 'play-anchors'}), star = el('polygon', {class: 'play-star'})
      const [grids, chosenGrids] = choices('grids', [4, 2, 1], ['4x4', '2x2', '1x1'], 0, () => update())
      const [zooms, chosenZooms] = choices('zooms', [.7, 1, 1.3], ['0.7', '1', '1.3'], 1, () => update())
      const [ratios, chosenRatios] = choices('ratios', [[1, 1], [1, .5], [.5, 1]], ['1 : 1', '1 : 0.5', '0.5 : 1'], 0, () => update())
      const [svg, say] = figure(div, {view: '-17 -17 134 134', label: 'Anchors over a picture, and a star that can be moved',
        hint: 'Drag the star, or the corner of its box. With the keyboard: tab, arrow keys, shift and arrow keys.'},
        el('div', {class: 'play-choices'}, grids, zooms, ratios))
      svg.append(el('rect', {class: 'play-picture', width: 100, height: 100}), star, drawn)
      const corners = [...Array(10).keys()].map(i => [(i % 2 ? .45 : 1) * Math.sin(i * Math.PI / 5), -(i % 2 ? .45 : 1) * Math.cos(i * Math.PI / 5)])
      const [left, top, right, bottom] = [Math.min, Math.max].flatMap(f => [0, 1].map(k => f(...corners.map(c => c[k]))))
      function update() {
        const [g, z, r] = [chosenGrids(), chosenZooms(), chosenRatios()], anchors = anchorBoxes(g, z, r)
        const ious = anchors.map(a => iou(boxes[0], a)), best = ious.indexOf(Math.max(...ious)), [x1, y1, x2, y2] = boxes[0]
        set(star, {points: corners.map(([x, y]) => [100 * (x1 + (x2 - x1) * (x - left) / (right - left)),
                                                    100 * (y1 + (y2 - y1) * (y - top) / (bottom - top))]).join(' ')})
        drawn.replaceChildren(...anchors.map(a => el('rect', edges(a))))
        if (best >= 0) drawn.append(el('rect', {...edges(anchors[best]), class: 'play-best'}))
        const cells = g.length > 1 ? `(${g.map(n => n * n).join(' + ')})` : g.length && g[0] ** 2
        const many = (n, word) => `${n} ${word}${n === 1 ? '' : 's'}`
        say(`${cells} cells x ${many(z.length, 'zoom')} x ${many(r.length, 'ratio')} = ${many(anchors.length, 'anchor')}`,
            best < 0 ? 'no anchors, nothing can find the star' : `best IoU with the star ${ious[best].toFixed(3)}`, `star ${numbers(boxes[0])}`)
      }
      draggable(svg, boxes, ['star'], update)
    },

    gamma(div) {
      const [gamma, gammaNow] = slider('gamma', [0, 5, .1, 1], () => update())
      const [alpha, alphaNow] = slider('alpha', [.05, .95, .05, .5], () => update())
      const [svg, say] = figure(div, {view: '-9 -7 115 94', role: 'img', label: 'Loss of one answer against the probability given to the truth',
        hint: 'With alpha 0.5 both truths weigh the same, as in the picture above. FocalLoss() has gamma 1 and alpha 0.25.'}, gamma, alpha)
      const y = loss => 60 - 20 * loss, P = [...Array(199).keys()].map(i => (i + 1) / 200)
      const curve = (g, a) => 'M' + P.map(p => `${100 * p} ${y(focal(p, g, a)).toFixed(2)}`).filter(xy => +xy.split(' ')[1] >= 0).join('L')
      const parts = {}, add = (key, name, attributes, ...children) => svg.append(parts[key] = el(name, attributes, ...children))
      add('', 'path', {class: 'play-axes', d: 'M0 0V60H100M-1.5 0H0M-1.5 20H0M-1.5 40H0M50 60v1.5M100 60v1.5'})
      for (const loss of [0, 1, 2, 3]) add('', 'text', {x: -2.5, y: y(loss) + 1.5, 'text-anchor': 'end'}, `${loss}`)
      for (const p of [0, .5, 1]) add('', 'text', {x: 100 * p, y: 65.5, 'text-anchor': 'middle'}, `${p}`)
      add('', 'text', {x: -5.5, y: -3}, 'loss')
      add('', 'text', {x: 50, y: 70.5, 'text-anchor': 'middle'}, 'probability given to the truth')
      add('', 'path', {class: 'play-curve play-plain', d: curve(0, 1)})
      const kinds = {no: [.95, 316, 'easy: truth is no'], yes: [.2, 4, 'hard: truth is yes']}
      Object.entries({plain: 'gamma 0, no alpha', no: kinds.no[2], yes: kinds.yes[2]}).forEach(([kind, text], i) => {
        svg.append(el('path', {class: `play-curve play-${kind}`, d: `M52 ${4 + 5 * i}h7`}), el('text', {x: 61, y: 5.5 + 5 * i}, text))
      })
      for (const kind in kinds) add(kind, 'path', {class: `play-curve play-${kind}`})
      for (const kind in kinds) {
        add(kind + 'Dot', 'circle', {class: `play-dot play-${kind}`, r: 1.8, cx: 100 * kinds[kind][0]})
        add(kind + 'Bar', 'rect', {class: `play-dot play-${kind}`, y: 80, height: 6})
      }
      add('', 'text', {x: 0, y: 78}, 'who makes up the loss? 316 easy answers, 4 hard ones')
      function update() {
        const g = gammaNow(), a = {yes: alphaNow(), no: 1 - alphaNow()}, loss = {}
        for (const kind in kinds) {
          loss[kind] = focal(kinds[kind][0], g, a[kind])
          set(parts[kind], {d: curve(g, a[kind])})
          set(parts[kind + 'Dot'], {cy: y(loss[kind])})
        }
        const easy = 316 * loss.no / (316 * loss.no + 4 * loss.yes)
        set(parts.noBar, {x: 0, width: 100 * easy})
        set(parts.yesBar, {x: 100 * easy, width: 100 - 100 * easy})
        say(`easy answer, right with 95 %: loss ${loss.no.toPrecision(3)}`,
            `hard answer, right with 20 %: loss ${loss.yes.toPrecision(3)}, ${+(loss.yes / loss.no).toPrecision(3)} times as much`,
            `316 easy and 4 hard answers: the easy ones make up ${(100 * easy).toFixed(1)} % of the loss`)
      }
      update()
    },

    nms(div) {
      const rows = JSON.parse(div.dataset.boxes), boxes = rows.map(r => r.slice(0, 4)), labels = rows.map(r => r[4]), scores = rows.map(r => r[5])
      const [score, scoreNow] = slider('score threshold', [.1, 1, .01, .3], () => update())
      const [thresh, threshNow] = slider('IoU threshold', [0, 1, .01, .5], () => update())
      const drawn = el('g'), names = [...new Set(labels)]
      const [svg, say] = figure(div, {view: '0 0 100 100', role: 'img', label: 'Boxes over a picture, before and after suppression',
        hint: 'Bright boxes stay, faint ones are suppressed. Boxes under the score threshold are not drawn.'}, score, thresh)
      svg.append(el('image', {href: div.dataset.image, width: 100, height: 100, preserveAspectRatio: 'none'}), drawn)
      function update() {
        const kept = suppress(boxes, labels, scores, scoreNow(), threshNow()), taken = []
        const shown = [...scores.keys()].filter(i => scores[i] >= scoreNow()), faint = shown.filter(i => !kept.includes(i))
        const box = (i, extra) => el('rect', {...edges(boxes[i]), class: `play-color${names.indexOf(labels[i]) % 8} ${extra}`})
        const name = i => {  // under the names that are there already
          let [x, y] = [100 * boxes[i][0] + 1, 100 * boxes[i][1] + 4]
          while (taken.some(t => Math.abs(t[0] - x) < 22 && Math.abs(t[1] - y) < 4)) y += 1
          taken.push([x, y])
          return el('text', {x, y, class: `play-color${names.indexOf(labels[i]) % 8}`}, `${labels[i]} ${scores[i].toFixed(2)}`)
        }
        drawn.replaceChildren(...faint.map(i => box(i, 'play-faint')), ...kept.map(i => box(i, 'play-kept')), ...kept.slice(0, 12).map(name))
        say(`${shown.length} boxes score at least ${scoreNow().toFixed(2)}; ${kept.length} stay, ${faint.length} are suppressed`,
            names.map(n => [kept.filter(i => labels[i] === n).length, n]).filter(([n]) => n).map(([n, name]) => `${name}: ${n}`).join(', '))
      }
      update()
    },
  }

  const upgrade = () => document.querySelectorAll('div.play[data-figure]').forEach(div => figures[div.dataset.figure](div))
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', upgrade)
  else upgrade()
})()
