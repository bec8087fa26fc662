// Focal loss: what one prediction costs, and which predictions make up the loss of an image.
(() => {
  const {focal} = play
  const {set, el, figure, slider, table} = play.draw
  const EASY = .95
  const HARD = .2
  const MANY = 316
  const FEW = 4
  // the loss is drawn on a logarithmic scale, or everything beyond p = 0.6 would look like 0
  const HIGHEST = 10
  const LOWEST = 1e-5
  const height = loss => 60 * Math.log10(HIGHEST / loss) / Math.log10(HIGHEST / LOWEST)

  const short = v => v < .0001 ? v.toExponential(2) : v.toPrecision(3)

  function curve(gamma, weight) {
    const ps = Array.from({length: 199}, (_, i) => (i + 1) / 200)
    const points = ps.map(p => [100 * p, height(focal(p, gamma, weight))])
    const inside = points.filter(([, y]) => y >= 0 && y <= 60)
    return 'M' + inside.map(([x, y]) => `${x} ${y.toFixed(2)}`).join('L')
  }

  function axes() {
    const losses = [10, 1, .1, .01, .001, .0001, .00001]
    const ticks = losses.map(loss => `M-1.5 ${height(loss)}H0`).join('')
    const atLoss = losses.map(loss => {
      return el('text', {x: -2.5, y: height(loss) + 1.5, 'text-anchor': 'end'}, `${+loss}`)
    })
    const atP = [0, .2, .5, .95].map(p => {
      return el('text', {x: 100 * p, y: 65.5, 'text-anchor': 'middle'}, `${p}`)
    })
    const below = {x: 50, y: 70.5, 'text-anchor': 'middle'}
    return [
      el('path', {class: 'play-axes', d: `M0 0V60H100${ticks}M20 60v1.5M50 60v1.5M95 60v1.5`}),
      // the two predictions of the example
      el('path', {class: 'play-guide', d: `M${100 * EASY} 0V60M${100 * HARD} 0V42`}),
      ...atLoss, ...atP,
      el('text', {x: -19, y: -3}, 'loss'),
      el('text', below, 'p, the probability given to the truth'),
      el('text', {x: 100 * HARD, y: -2, 'text-anchor': 'middle'}, 'hard'),
      el('text', {x: 100 * EASY, y: -2, 'text-anchor': 'middle'}, 'easy'),
    ]
  }

  function legend() {
    const kinds = {
      plain: 'cross entropy (gamma 0, no alpha)',
      positive: 'positive: weight alpha',
      negative: 'negative: weight 1 - alpha',
    }
    return Object.entries(kinds).flatMap(([kind, text], i) => [
      el('path', {class: `play-curve play-loss-${kind}`, d: `M3 ${45 + 5 * i}h7`}),
      el('text', {x: 12, y: 46.5 + 5 * i}, text),
    ])
  }

  play.figures.gamma = div => {
    const [gammaRow, gamma] = slider('gamma', [0, 5, .1, 1], () => update())
    const [alphaRow, alpha] = slider('alpha', [.05, .95, .05, .25], () => update())
    const heads = ['loss of one', `easy (p ${EASY})`, `hard (p ${HARD})`]
    const [shown, fill] = table('Loss of one prediction', heads)
    const [svg, say] = figure(div, {
      view: '-20 -8 122 98', role: 'img',
      label: 'Loss of one prediction against the probability given to the truth',
      hint: 'gamma goes by the difficulty of a prediction, alpha by its class: positive ' +
        '(the class is there) or negative (it is not). It begins with the values of ' +
        'FocalLoss(): alpha 0.25, gamma 1. The scale of the loss is logarithmic.',
    }, gammaRow, alphaRow, shown)
    const curves = {
      negative: el('path', {class: 'play-curve play-loss-negative'}),
      positive: el('path', {class: 'play-curve play-loss-positive'}),
    }
    const easyDot = el('circle', {class: 'play-dot play-loss-negative', r: 1.8, cx: 100 * EASY})
    const hardDot = el('circle', {class: 'play-dot play-loss-positive', r: 1.8, cx: 100 * HARD})
    const easyBar = el('rect', {class: 'play-dot play-loss-negative', y: 81, height: 6, x: 0})
    const hardBar = el('rect', {class: 'play-dot play-loss-positive', y: 81, height: 6})
    svg.append(
      ...axes(), ...legend(),
      el('path', {class: 'play-curve play-loss-plain', d: curve(0, 1)}),
      ...Object.values(curves), easyDot, hardDot, easyBar, hardBar,
      el('text', {x: 0, y: 79}, `loss of ${MANY} easy negatives, ${FEW} hard positives`),
    )

    function update() {
      const weights = {positive: alpha(), negative: 1 - alpha()}
      const loss = (p, kind) => focal(p, gamma(), weights[kind])
      const easy = loss(EASY, 'negative')
      const hard = loss(HARD, 'positive')
      const share = 100 * MANY * easy / (MANY * easy + FEW * hard)
      for (const kind in curves) set(curves[kind], {d: curve(gamma(), weights[kind])})
      set(easyDot, {cy: Math.min(height(easy), 60)})
      set(hardDot, {cy: Math.min(height(hard), 60)})
      set(easyBar, {width: share})
      set(hardBar, {x: share, width: 100 - share})
      const cell = (p, kind, n) => {
        const one = short(loss(p, kind))
        // no line break before the number
        return n ? [`${one} (x\u00a0${n})`, 'play-chosen'] : one
      }
      fill([
        ['positive', cell(EASY, 'positive'), cell(HARD, 'positive', FEW)],
        ['negative', cell(EASY, 'negative', MANY), cell(HARD, 'negative')],
      ])
      say(
        `One hard positive costs ${+(hard / easy).toPrecision(3)} times as much as ` +
          'one easy negative.',
        `All together, the ${MANY} easy negatives make up ${share.toFixed(1)} % of the loss, ` +
          `the ${FEW} hard positives ${(100 - share).toFixed(1)} %.`,
      )
    }
    update()
  }
})()
