"The live page: the network that it serves, and what a reader can do, in a real browser."
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ssd_tutorial.evaluate import HIT, match_detections
from ssd_tutorial.predict import Detections, non_max_suppression, suppress_across_classes
from ssd_tutorial.readers import Sample
from ssd_tutorial.shapes import SHAPES

ROOT = Path(__file__).parents[1]
LIVE = ROOT/'docs/_static/live'
NBS = ROOT/'nbs'
DEMO = ROOT/'runs/demo/metrics.json'
for needed in ('onnx', 'onnxruntime'): pytest.importorskip(needed)
make_live = pytest.importorskip('make_live', reason='a copy of tests/ without the repository')
FACTS = json.loads((LIVE/'live.json').read_text())
TASKS = ['overlap', 'edge', 'tiny', 'turned', 'drawing']


# ---- the network

@pytest.fixture(scope='module')
def served(): return make_live.served_detector()


def test_the_file_is_the_one_that_its_facts_are_about():
    data = (LIVE/'live.onnx').read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (FACTS['bytes'], FACTS['sha256'])
    assert len(data) < 3e6
    # two bytes for each weight, and the graph
    assert 2 < len(data) / FACTS['weights'] < 2.3
    assert FACTS['classes'] == list(SHAPES)
    # no path of the machine that made it
    assert [word for word in (b'/home', b'/tmp', b'/root', b'.py') if word in data] == []


def test_the_network_is_as_good_as_its_facts_say(served, tmp_path):
    _, valid = make_live.demo_split(tmp_path/'shapes')
    found = make_live.quality(served, valid)
    assert found['n_valid'] == FACTS['n_valid'] == 200
    for name in ('map50', 'map'): assert found[name] == pytest.approx(FACTS[name], abs=2e-3)
    assert found['map50'] == pytest.approx(FACTS['map50_in_32_bits'], abs=.01)
    assert found['map50'] > .98
    if DEMO.is_file(): assert found['map50'] > json.loads(DEMO.read_text())['map50'] - .01


def test_the_facts_are_those_of_the_tool():
    "So that a change of the recipe is not forgotten."
    assert FACTS['train'] == make_live.TRAIN
    recipe = {k: v for k, v in FACTS['recipe'].items() if k in vars(make_live.RECIPE)}
    assert recipe == vars(make_live.RECIPE)


# ---- the page

# Seeded, so that a fault can be seen again; and what the network answers is kept
WATCH = '''(() => {
  let state = 1
  Math.random = () => {
    state = state * 48271 % 2147483647
    return state / 2147483647
  }
  globalThis.answers = []
  addEventListener('found', event => answers.push(event.detail), true)
})()'''


def open_page(browser, site, name, width=1200, **options):
    "A page, and the list of what it asked for."
    page = browser.new_page(viewport=dict(width=width, height=900), **options)
    page.set_default_timeout(20_000)
    asked = []
    faults = []
    page.on('request', lambda r: asked.append(r.url))
    page.on('console', lambda m: faults.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: faults.append(str(e)))
    page.add_init_script(WATCH)
    page.goto(site + name)
    return page, asked, faults


@pytest.fixture(params=[1200, 390], ids=['desk', 'phone'])
def live(request, browser, site):
    "The live page once the network has answered; nothing goes wrong on it."
    page, asked, faults = open_page(browser, site, 'live.html', request.param,
                                    has_touch=request.param == 390)
    page.wait_for_function('answers.length > 0')
    yield page
    page.close()
    assert faults == []
    ours = (site, 'data:', 'blob:')
    assert [url for url in asked if not url.startswith(ours)] == []


def settle(page):
    "Wait until the network has nothing left to answer."
    page.wait_for_function('''() => new Promise(done => {
        let n = -1
        const look = () => {
            if (n === answers.length) return done(true)
            n = answers.length
            setTimeout(look, 120)
        }
        look()
    })''')


def part(page, css): return page.locator(f'.play[data-figure=live] {css}')


def press(page, name): part(page, '').get_by_role('button', name=name, exact=True).click()


def switch(page, legend, name):
    group = part(page, 'fieldset').filter(has=page.locator(f'legend:text-is("{legend}")'))
    group.get_by_label(name, exact=True).check()


def slide(page, label, value):
    "Move a slider; the keyboard would need a hundred presses."
    part(page, '').get_by_label(label, exact=True).evaluate(
        '(e, v) => { e.value = v; e.dispatchEvent(new Event("input")) }', str(value))
    settle(page)


def objects(page):
    "The drawn objects of the newest answer."
    settle(page)
    return page.evaluate('answers.at(-1).objects')


def found(page):
    settle(page)
    return page.evaluate('answers.at(-1).found')


def shape(page, i=0): return part(page, '.play-object').nth(i)


def middle(locator):
    locator.scroll_into_view_if_needed()
    b = locator.bounding_box()
    return b['x'] + b['width'] / 2, b['y'] + b['height'] / 2


def drag(page, locator, dx, dy):
    x, y = middle(locator)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def keys(page, locator, *pressed):
    locator.focus()
    for key in pressed: page.keyboard.press(key)


# ---- by numbers

def network_js(page, name, *args):
    "What a function of network.js gives."
    return page.evaluate('''async ([name, args]) => {
        const network = await import('/_static/live/network.js')
        return network[name](...args)
    }''', [name, [*args]])


@pytest.fixture(scope='module')
def modules(browser, site):
    page, _, faults = open_page(browser, site, 'live.html')
    yield page
    page.close()
    assert faults == []


def test_anchors_are_the_detectors(modules, served):
    boxes = [a['box'] for a in network_js(modules, 'makeAnchors', FACTS)]
    assert_close(torch.tensor(boxes), served.anchors.xyxy)


def crowd(n, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(n, 4, generator=generator) * .5
    boxes = torch.cat([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], 1)
    return boxes, torch.rand(n, 8, generator=generator)


@pytest.mark.parametrize('thresholds', [(.5, .5, .8), (.3, .2, .4), (.02, .5, 1)])
def test_boxes_are_found_as_in_predict(modules, thresholds):
    "With the lowest threshold there are more candidates than take part in suppression."
    score_thresh, nms_thresh, across_thresh = thresholds
    boxes, scores = crowd(200, 3)
    rows = dict(boxes=boxes.tolist(), scores=scores.tolist())
    got = network_js(modules, 'find', rows, *thresholds)
    kept, = non_max_suppression(boxes[None], scores[None], score_thresh, nms_thresh)
    want_boxes, labels, want_scores = suppress_across_classes(*kept, across_thresh)
    assert [g['label'] + 1 for g in got] == labels.tolist()
    assert_close(torch.tensor([g['score'] for g in got]), want_scores)
    assert_close(torch.tensor([g['box'] for g in got]), want_boxes)


def test_hits_are_those_of_the_evaluation(modules):
    names = ['heart', 'star']
    outcomes = set()
    for seed in range(30):
        boxes, scores = crowd(12, seed)
        labels = [int(v * 2) for v in scores[:, 1].tolist()]
        order = scores[:, 0].argsort(descending=True).tolist()
        rows = [dict(box=boxes[i].tolist(), label=labels[i]) for i in order]
        # objects near some of the boxes
        real = [dict(box=(boxes[i] + .01).tolist(), label=labels[i]) for i in range(5)]
        hits = network_js(modules, 'judge', rows, real)
        detections = Detections(boxes[order].numpy(), [names[r['label']] for r in rows],
                                scores[order, 0].numpy(), None)
        truth = Sample('', [t['box'] for t in real], [names[t['label']] for t in real])
        want, index = match_detections(detections, truth)
        assert hits == np.where(want == HIT, index, -1).tolist()
        outcomes |= {*want.tolist()}
        counts = network_js(modules, 'count', hits, len(real))
        n_hits = int((want == HIT).sum())
        assert counts['precision'] == pytest.approx(n_hits / 12)
        assert counts['recall'] == pytest.approx(n_hits / 5)
        assert counts['falseNegatives'] == 5 - n_hits
    assert outcomes == {0, 1}


def pixels_of(page):
    data = page.evaluate('Array.from(answers.at(-1).pixels.data)')
    size = FACTS['size']
    return np.array(data, np.uint8).reshape(size, size, 4)[..., :3]


def test_the_page_finds_what_predict_finds(modules, served):
    "In fifty random scenes: the same pixels, the same boxes."
    page = modules
    n_found = 0
    for i in range(50):
        switch(page, 'background', ['clouds', 'stripes', 'slope', 'plain'][i % 4])
        press(page, 'Another scene')
        got = found(page)
        want = served.predict(pixels_of(page))
        assert [FACTS['classes'][g['label']] for g in got] == want.labels, i
        boxes = np.array([g['box'] for g in got]).reshape(-1, 4) * FACTS['size']
        assert np.abs(boxes - want.boxes).max(initial=0) < 1
        scores = np.array([g['score'] for g in got])
        assert np.abs(scores - want.scores).max(initial=0) < .02
        n_found += len(got)
    assert n_found > 100


def test_shapes_are_found_on_every_background(modules):
    "What the page draws looks to the network like what it was trained on."
    page = modules
    for ground in ['clouds', 'stripes', 'slope', 'plain']:
        switch(page, 'background', ground)
        counts = []
        for _ in range(20):
            press(page, 'Another scene')
            settle(page)
            result = page.evaluate('[answers.at(-1).hits, answers.at(-1).truth.length]')
            counts.append([sum(hit >= 0 for hit in result[0]), len(result[0]), result[1]])
        right, boxes, real = np.sum(counts, 0)
        assert right / real > .9 and right / boxes > .9, (ground, right, boxes, real)
