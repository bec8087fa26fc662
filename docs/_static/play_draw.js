// Parts that all moving figures are made of: elements, sliders, checkboxes, tables, and boxes
// that can be dragged. The unit of drawings is a hundredth of the picture's side.
// Nothing here moves by itself, so nothing has to stop for readers who want less motion.
(() => {
  const {area, shapeCorners} = play
  const SVG = 'http://www.w3.org/2000/svg'
  const DRAWN = ['svg', 'g', 'rect', 'circle', 'path', 'polygon', 'text', 'image']

  // ---- elements

  function set(e, attributes) {
    for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value)
    return e
  }

  function el(name, attributes = {}, ...children) {
    const drawn = DRAWN.includes(name)
    const e = drawn ? document.createElementNS(SVG, name) : document.createElement(name)
    e.append(...children)
    return set(e, attributes)
  }

  // ---- boxes, shapes and numbers

  // Attributes of a rect; `inside` pulls its edges in, or neighbours would hide each other.
  function edges([x1, y1, x2, y2], inside = 0) {
    const width = Math.max(100 * (x2 - x1) - 2 * inside, 0)
    const height = Math.max(100 * (y2 - y1) - 2 * inside, 0)
    return {x: 100 * x1 + inside, y: 100 * y1 + inside, width, height}
  }

  const numbers = box => `(${box.map(v => v.toFixed(2)).join(', ')})`

  const count = (n, one, more = `${one}s`) => `${n} ${n === 1 ? one : more}`

  const asPoint = p => p.map(v => (100 * v).toFixed(2)).join(',')

  const asPoints = points => points.map(asPoint).join(' ')

  // Points of a polygon: the shape, stretched until it fills the box.
  const shapePoints = (name, box, degrees) => asPoints(shapeCorners(name, box, degrees))

  // ---- a figure and its controls

  // The drawing, and beside it (below it, where the page is narrow) controls, text, hint, and
  // in `after` what comes between text and hint.
  function figure(div, {view, label, hint, role = 'group', after = []}, ...controls) {
    const svg = el('svg', {viewBox: view, role, 'aria-label': label})
    const text = el('p', {class: 'play-text', 'aria-live': 'polite'})
    const help = el('p', {class: 'play-hint'}, hint)
    const side = el('div', {class: 'play-side'}, ...controls, text, ...after, help)
    div.replaceChildren(svg, side)
    const say = (...lines) => { text.textContent = lines.filter(Boolean).join('\n') }
    return [svg, say]
  }

  // A label with its slider, a function that gives the value, and one that puts another value.
  function slider(label, [min, max, step, value], changed) {
    const digits = step < .1 ? 2 : step < 1 ? 1 : 0
    const input = el('input', {type: 'range', min, max, step, value, autocomplete: 'off'})
    const shown = el('output')
    const now = () => +input.value
    const show = () => { shown.value = now().toFixed(digits) }
    const put = (wanted, most = input.max) => {
      input.max = most
      input.value = wanted
      show()
    }
    input.oninput = () => {
      show()
      changed()
    }
    show()
    // the value stands outside of the label, or it would be part of the slider's name
    const named = el('label', {}, el('span', {}, label), input)
    return [el('div', {class: 'play-slider'}, named, shown), now, put]
  }

  // Checkboxes, or radio buttons where only one may be chosen. `on` is the one chosen at first.
  // Gives the element and a function that gives the chosen values.
  function choices(legend, values, names, on, changed, type = 'checkbox') {
    const inputs = values.map((_, i) => {
      const input = el('input', {type, name: legend, autocomplete: 'off'})
      input.checked = i === on
      input.onchange = changed
      return input
    })
    const labels = inputs.map((input, i) => el('label', {}, input, ` ${names[i]}`))
    const chosen = () => values.filter((_, i) => inputs[i].checked)
    return [el('fieldset', {}, el('legend', {}, legend), ...labels), chosen]
  }

  function button(label, pressed) {
    const e = el('button', {type: 'button', class: 'play-button'}, label)
    e.onclick = pressed
    return e
  }

  // A table and a function that fills it. A cell is a text, or [text, class].
  function table(label, heads) {
    const cell = (name, content, attributes = {}) => {
      const [text, kind = ''] = [content].flat()
      return el(name, {class: kind, ...attributes}, text)
    }
    const head = el('tr', {}, ...heads.map(h => cell('th', h, {scope: 'col'})))
    const body = el('tbody')
    const row = ([first, ...rest]) => {
      return el('tr', {}, cell('th', first, {scope: 'row'}), ...rest.map(c => cell('td', c)))
    }
    const fill = rows => body.replaceChildren(...rows.map(row))
    const attributes = {class: 'play-table', 'aria-label': label}
    const e = el('table', attributes, el('thead', {}, head), body)
    return [e, fill]
  }

  // ---- boxes that a mouse, a finger or the arrow keys move and resize

  const within = (v, low, high) => Math.min(Math.max(v, low), high)

  const snapped = box => box.map(v => Math.round(v * 100) / 100)

  function moved([x1, y1, x2, y2], wantedX, wantedY) {
    const dx = within(wantedX, -x1, 1 - x2)
    const dy = within(wantedY, -y1, 1 - y2)
    return [x1 + dx, y1 + dy, x2 + dx, y2 + dy]
  }

  function resized([x1, y1, x2, y2], dx, dy) {
    return [x1, y1, within(x2 + dx, x1 + .05, 1), within(y2 + dy, y1 + .05, 1)]
  }

  const STEPS = {
    ArrowLeft: [-.01, 0], ArrowRight: [.01, 0], ArrowUp: [0, -.01], ArrowDown: [0, .01],
  }

  // What a pointer takes hold of: a corner nearby, or else the smallest box under it.
  function grabbed(boxes, {x, y}) {
    const far = boxes.map(b => Math.hypot(b[2] - x, b[3] - y))
    const nearest = far.indexOf(Math.min(...far))
    if (far[nearest] < .06) return [nearest, resized]
    const holds = b => x >= b[0] && y >= b[1] && x <= b[2] && y <= b[3]
    const under = [...boxes.keys()].filter(i => holds(boxes[i]))
    under.sort((i, j) => area(boxes[i]) - area(boxes[j]))
    return [under[0], moved]
  }

  // Where in the drawing a pointer is, in shares of its side.
  function place(svg, event) {
    const toDrawing = svg.getScreenCTM().inverse()
    const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(toDrawing)
    return {x: p.x / 100, y: p.y / 100}
  }

  // `begin` gets the place where a pointer goes down, and what it hits. It gives a function for
  // each place that the pointer is moved to, or nothing where there is nothing to be moved.
  function drags(svg, begin, ended = () => {}) {
    const moves = new Map()  // one for each finger
    svg.onpointerdown = event => {
      const move = event.button ? undefined : begin(place(svg, event), event.target)
      if (!move) return
      moves.set(event.pointerId, move)
      svg.setPointerCapture(event.pointerId)
      event.preventDefault()
    }
    svg.onpointermove = event => moves.get(event.pointerId)?.(place(svg, event))
    svg.onpointerup = event => {
      if (moves.delete(event.pointerId)) ended(place(svg, event))
    }
    svg.onpointercancel = svg.onpointerup
    // a finger on a box must not scroll; touch-action does not hold for parts of an svg
    const hold = event => moves.size && event.preventDefault()
    svg.addEventListener('touchstart', hold, {passive: false})
  }

  // The step of an arrow key that is pressed without others but shift; the page must then
  // neither scroll nor turn.
  function arrowStep(event) {
    const step = STEPS[event.key]
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return
    event.preventDefault()
    event.stopPropagation()
    return step
  }

  // `boxes` is kept up to date; the names are also the classes that give the colours.
  function draggable(svg, boxes, names, changed) {
    const outlines = names.map(name => el('rect', {
      class: `play-box play-${name}`, tabindex: 0, role: 'application',
      'aria-label': `box of the ${name}: arrow keys move it, shift and arrow keys resize it`,
    }))
    const labels = names.map(name => el('text', {class: 'play-name'}, name))
    const handles = names.map(name => el('circle', {class: `play-corner play-${name}`, r: 2.5}))
    svg.append(...outlines, ...labels, ...handles)

    function draw(i) {
      const [, , right, bottom] = boxes[i]
      set(outlines[i], edges(boxes[i]))
      set(labels[i], {x: 100 * right - 4, y: 100 * bottom - 3})
      set(handles[i], {cx: 100 * right, cy: 100 * bottom})
    }
    function change(i, box) {
      boxes[i] = snapped(box)
      draw(i)
      changed()
    }
    drags(svg, start => {
      const [i, how] = grabbed(boxes, start)
      if (i === undefined) return
      const box = boxes[i]
      outlines[i].focus({preventScroll: true})
      return now => change(i, how(box, now.x - start.x, now.y - start.y))
    })

    outlines.forEach((outline, i) => outline.onkeydown = event => {
      const step = arrowStep(event)
      if (step) change(i, (event.shiftKey ? resized : moved)(boxes[i], ...step))
    })
    boxes.forEach((_, i) => draw(i))
    changed()
  }

  const DRAG_HINT = 'Drag a box, or its corner. ' +
    'With the keyboard: tab, arrow keys, shift and arrow keys.'

  play.draw = {
    set, el, edges, numbers, count, asPoints, shapePoints, figure, slider, choices, button,
    table, within, place, drags, arrowStep, draggable, DRAG_HINT,
  }

  // Each <div class="play" data-figure="..."> becomes a figure once all files are loaded.
  document.addEventListener('DOMContentLoaded', () => {
    for (const div of document.querySelectorAll('div.play[data-figure]'))
      play.figures[div.dataset.figure](div)
  })
})()
