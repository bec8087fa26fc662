// What was found, in words: counts for the eye and the ear, and a list of boxes to ask about.
import {named} from './layers.js'
import {count} from './network.js'
import {described} from './stage.js'
const {el, button, count: counted} = play.draw

export function introduced({weights, map50, n_valid: n}) {
  return `The network has ${weights} weights; its mAP50 is ${map50.toFixed(3)}, on ` +
    `${n} drawn images that it was not trained on.`
}

const rate = v => Number.isNaN(v) ? 'not defined' : v.toFixed(2)

export function summary({hits, truth}) {
  const counts = count(hits, truth.length)
  return [
    `${counted(truth.length, 'shape')}: ${counts.truePositives} found, ` +
      `${counts.falseNegatives} missed, ${counted(counts.falsePositives, 'false positive')}.`,
    `Precision ${rate(counts.precision)}, recall ${rate(counts.recall)}.`,
  ]
}

export const spoken = result => [summary(result)[0], ...result.found.map(named)].join(' ')

export function fillResults(list, {found, hits, truth, objects}, ask) {
  const items = found.map((pair, i) => {
    const kind = hits[i] >= 0 ? 'true' : 'false'
    const e = button(`${named(pair)}, ${kind} positive`, () => ask(pair))
    return el('li', {class: `play-${kind}`}, e)
  })
  const missed = truth.filter((_, i) => !hits.includes(i)).map(({id}) => {
    return el('li', {}, `missed: ${described(objects.find(o => o.id === id))}`)
  })
  list.replaceChildren(...items, ...missed)
}
