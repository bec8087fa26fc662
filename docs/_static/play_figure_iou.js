// Two boxes, their intersection and union, and an IoU to aim for.
(() => {
  const {area, intersection, iou} = play
  const {set, el, edges, numbers, figure, draggable, DRAG_HINT} = play.draw
  const GOAL = .5

  function goalLine(value) {
    if (Math.abs(value - GOAL) < .005) return 'Goal reached: half of the union is shared.'
    return `Goal: make the IoU 0.50; yours is too ${value < GOAL ? 'small' : 'large'}.`
  }

  play.figures.iou = div => {
    const boxes = [[.1, .2, .5, .6], [0, 0, .5, .5]]
    const [svg, say] = figure(div, {
      view: '-4 -4 108 120',
      label: 'Two boxes that can be moved, their intersection and their union',
      hint: `Blue and yellow together: the union. Yellow: the intersection. ${DRAG_HINT}`,
    })
    const halves = boxes.map(() => el('rect'))
    const shared = el('rect', {class: 'play-intersection'})
    const bar = el('rect', {class: 'play-bar', y: 105, height: 4})
    const x = 100 * GOAL
    svg.append(
      el('rect', {class: 'play-frame', width: 100, height: 100}),
      // the group is faded as a whole, so that the two boxes show as one area
      el('g', {class: 'play-union'}, ...halves),
      shared,
      el('rect', {class: 'play-frame', y: 105, width: 100, height: 4}),
      bar,
      el('path', {class: 'play-axes', d: `M${x} 103.5v7`}),
      el('text', {x, y: 114.5, 'text-anchor': 'middle'}, 'goal 0.50'),
      el('text', {x: 0, y: 114.5}, 'IoU 0'),
      el('text', {x: 100, y: 114.5, 'text-anchor': 'end'}, '1'),
    )
    draggable(svg, boxes, ['star', 'anchor'], () => {
      const [star, anchor] = boxes
      const common = area(intersection(star, anchor))
      const union = area(star) + area(anchor) - common
      const value = iou(star, anchor)
      halves.forEach((half, i) => set(half, edges(boxes[i])))
      set(shared, edges(common ? intersection(star, anchor) : [0, 0, 0, 0]))
      set(bar, {width: 100 * value})
      say(
        `intersection ${common.toFixed(4)} / union ${union.toFixed(4)}`,
        `= IoU ${value.toFixed(3)}`,
        `star ${numbers(star)}`,
        `anchor ${numbers(anchor)}`,
        goalLine(value),
      )
    })
  }
})()
