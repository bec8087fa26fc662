// Scenes that the detector fails at. What is said about each stands in the page, as
// <div class="play-task" data-task="...">.
import {COLORS, drawing, makeObject, turned} from './scene.js'

const {red, orange, green, blue, violet} = COLORS

const SPIRAL = Array.from({length: 60}, (_, i) => {
  const angle = i / 60 * 6 * Math.PI
  const radius = .04 + .2 * i / 60
  return [.5 + radius * Math.cos(angle), .5 + radius * Math.sin(angle)]
})

export const scribble = color => drawing(color, SPIRAL)

export const TASKS = {
  overlap: () => [
    makeObject('star', orange, [.28, .32, .62, .66]),
    makeObject('star', red, [.36, .36, .7, .7]),
  ],
  edge: () => [
    makeObject('heart', red, [-.2, .1, .2, .5]),
    makeObject('arrow', blue, [.75, .75, 1.15, 1.1]),
  ],
  tiny: () => [
    makeObject('cross', green, [.3, .3, .36, .36]),
    makeObject('circle', violet, [.66, .6, .72, .66]),
  ],
  turned: () => [
    turned(makeObject('square', green, [.1, .3, .4, .6]), 45),
    turned(makeObject('cross', violet, [.58, .32, .9, .64]), 45),
  ],
  drawing: () => [scribble(blue)],
}
