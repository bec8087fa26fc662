"The moving figures of the docs site: their arithmetic against the Python, and in a browser."
import ast
import json
import re
import shutil
import subprocess
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close
from torchvision.ops import batched_nms, nms

from hands import drag, middle, press_keys
from ssd_tutorial.anchors import SSDCoder, TanhCoder, make_anchors, match
from ssd_tutorial.boxes import box_iou, xyxy_to_cxcywh
from ssd_tutorial.evaluate import average_precision, match_detections, precision_recall
from ssd_tutorial.loss import (FocalLoss, GIoULoss, HardNegativeLoss, MultiBoxLoss, OffsetLoss,
                               VarifocalLoss, paired_iou)
from ssd_tutorial.predict import Detections, non_max_suppression
from ssd_tutorial.readers import Sample
from ssd_tutorial.shapes import SHAPES, shape_corners

ROOT = Path(__file__).parents[1]
STATIC = ROOT/'docs/_static'
PLAY = STATIC/'play.js'
SCRIPTS = sorted(STATIC.glob('*.js'))       # in the order in which a page loads them
FIGURES = ['iou', 'anchors', 'matching', 'coder', 'gamma', 'loss', 'nms', 'precision-recall']
LIVE = 'live'                               # needs the whole site: see test_live.py
if not PLAY.is_file():
    pytest.skip('docs/_static is not here: these tests need it', allow_module_level=True)


# ---- the same arithmetic

IN_NODE = '''
require(process.argv[1])
const [name, calls] = JSON.parse(require('fs').readFileSync(0))
console.log(JSON.stringify(calls.map(c => play[name](...c))))
'''
IN_PAGE = '([name, calls]) => calls.map(c => play[name](...c))'


@pytest.fixture(scope='module')
def js(request):
    "Calls a function of play.js, once for each list of arguments: in node or else in Chromium."
    node = shutil.which('node')
    if node:
        def called(name, calls):
            asked = json.dumps([name, calls])
            done = subprocess.run([node, '-e', IN_NODE, str(PLAY)], input=asked,
                                  capture_output=True, text=True, check=True)
            return json.loads(done.stdout)
        return called
    page = request.getfixturevalue('browser').new_page()
    page.evaluate(PLAY.read_text())
    return lambda name, calls: page.evaluate(IN_PAGE, [name, calls])


def double(values):
    return tensor(values, dtype=torch.double)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def crowd(n, seed, steps=None):
    "`(n,4)` boxes that overlap a lot; with `steps` many touch, are equal or have no area."
    numbers = torch.rand(n, 4, generator=generator(seed), dtype=torch.double) * .5
    if steps:
        numbers = (numbers * steps).round() / steps
    return torch.cat([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], 1)


def test_iou(js):
    reversed_boxes = double([[.6, .6, .2, .2], [.5, .1, .2, .4]])
    boxes = torch.cat([crowd(20, 0), crowd(20, 1, 4), reversed_boxes])
    pairs = [[a, b] for a in boxes.tolist() for b in boxes.tolist()]
    want = box_iou(boxes, boxes)
    assert_close(double(js('iou', pairs)).view(42, 42), want, rtol=0, atol=1e-12)


def test_shapes_are_the_chapters(js):
    for box, degrees in [((0, 0, 1, 1), 0), ((.1, .3, .5, .9), 8), ((.2, .2, .3, .6), -50)]:
        drawn = js('shapeCorners', [[name, list(box), degrees] for name in SHAPES])
        for name, corners in zip(SHAPES, drawn):
            want = double(shape_corners(name, box, degrees))
            assert_close(double(corners), want, rtol=0, atol=1e-12)


SQUARE = ((1., 1.),)
THREE = ((1., 1.), (1., .5), (.5, 1.))
SETS = [
    ((4,), (1.,), SQUARE),
    ((4, 2, 1), (.7, 1., 1.3), THREE),
    ((1, 3), (2.,), ((1.2, .83), (.83, 1.2))),
]


def test_anchors(js):
    for settings, boxes in zip(SETS, js('anchorBoxes', SETS)):
        assert_close(tensor(boxes), make_anchors(*settings).xyxy)
    empty = [[[], [1], [[1, 1]]], [[4], [], [[1, 1]]], [[4], [1], []]]
    assert js('anchorBoxes', empty) == [[], [], []]


def some_anchors(n, seed, steps=None):
    "Random anchors of 64 bits, in cells of some size."
    cxcywh = xyxy_to_cxcywh(crowd(n, seed, steps))
    cell = torch.rand(n, 2, generator=generator(seed), dtype=torch.double) + .1
    return replace(make_anchors(), cxcywh=cxcywh, cell=cell)


@pytest.mark.parametrize('steps', [None, 8])
@pytest.mark.parametrize('thresholds', [(.4, None), (.5, .4), (.5, .1), (.2, .2)])
def test_matching_is_the_chapters(js, thresholds, steps):
    match_thresh, neg_thresh = thresholds
    calls = []
    wanted = []
    for seed in range(60):
        n_objects = seed % 5
        anchors = some_anchors(1 + seed % 40, seed, steps)
        boxes = crowd(n_objects, seed + 100, steps)
        # some objects are padding
        labels = torch.randint(0, 4, (n_objects,), generator=generator(seed))
        wanted.append(match(anchors, boxes, labels, match_thresh, neg_thresh))
        given = [anchors.xyxy.tolist(), boxes.tolist(), labels.tolist(), match_thresh]
        calls.append(given if neg_thresh is None else [*given, neg_thresh])
    kinds = set()
    for got, want in zip(js('match', calls), wanted):
        assert got['labels'] == want.labels.tolist()
        found = want.labels != 0
        assert tensor(got['index'])[found].tolist() == want.index[found].tolist()
        forced = want.iou > 1
        assert [i >= 0 for i in got['forcedBy']] == forced.tolist()
        assert tensor(got['forcedBy'])[forced].tolist() == want.index[forced].tolist()
        kinds |= {min(label, 1) for label in got['labels']}
    has_zone = neg_thresh is not None and neg_thresh < match_thresh
    assert kinds == ({-1, 0, 1} if has_zone else {0, 1})


def test_the_later_object_wins_a_tie(js):
    box = [.1, .1, .4, .4]
    result, = js('match', [[[box, [.5, .5, 1, 1]], [box, box], [1, 2], .4]])
    assert (result['labels'], result['forcedBy']) == ([2, 0], [1, -1])


@pytest.mark.parametrize('coder', [TanhCoder(), SSDCoder()], ids=['TanhCoder', 'SSDCoder'])
def test_coders_are_the_chapters(js, coder):
    anchors = replace(some_anchors(50, 0), coder=coder)
    acts = torch.randn(50, 4, generator=generator(1), dtype=torch.double) * 3
    acts[0] = double([0, 0, 0, 0])
    acts[1] = double([100, -100, 100, -100])        # beyond what either coder lets through
    boxes = crowd(50, 2)
    settings = list(zip(anchors.cxcywh.tolist(), anchors.cell.tolist()))
    name = type(coder).__name__
    close = dict(rtol=1e-9, atol=1e-9)
    decoded = js('decode', [[name, a, *s] for a, s in zip(acts.tolist(), settings)])
    assert_close(double(decoded), anchors.decode(acts), **close)
    encoded = js('encode', [[name, b, *s] for b, s in zip(boxes.tolist(), settings)])
    assert_close(double(encoded), anchors.encode(boxes), **close)


@pytest.mark.parametrize('gamma', [0, .5, 1, 2, 5])
@pytest.mark.parametrize('alpha', [.25, .5, .9])
def test_focal(js, alpha, gamma):
    # beyond 80 a probability is too near to 0 or 1 to tell the logit
    acts = torch.cat([torch.linspace(-9, 9, 37), tensor([-80., 80.])]).double()
    loss = FocalLoss(alpha, gamma)
    # one class and background; the loss is divided by their number
    want = lambda act, truth: loss(torch.stack([act * 0, act])[None], tensor([truth])) * 2
    positive = js('focal', [[p, gamma, alpha] for p in acts.sigmoid().tolist()])
    negative = js('focal', [[p, gamma, 1 - alpha] for p in acts.neg().sigmoid().tolist()])
    for got, truth in [(positive, 1), (negative, 0)]:
        wanted = torch.stack([want(act, truth) for act in acts])
        assert_close(double(got), wanted, rtol=1e-6, atol=1e-12)


def test_giou(js):
    boxes = torch.cat([crowd(20, 0), crowd(20, 1, 4)])
    others = torch.cat([crowd(20, 2), crowd(20, 3, 4)])
    _, want = paired_iou(boxes, others)
    got = js('giou', list(zip(boxes.tolist(), others.tolist())))
    assert_close(double(got), want, rtol=0, atol=1e-9)


CLASS_LOSSES = dict(focal=FocalLoss, hard_negatives=HardNegativeLoss, varifocal=VarifocalLoss)
BOX_LOSSES = dict(offsets=OffsetLoss, giou=GIoULoss)


@pytest.mark.parametrize('box_loss', BOX_LOSSES)
@pytest.mark.parametrize('class_loss', CLASS_LOSSES)
def test_multi_box_loss(js, class_loss, box_loss):
    calls = []
    wanted = []
    for seed in range(30):
        # so many anchors that some are ignored, and not all negatives are hard
        anchors = replace(some_anchors(40, seed), coder=SSDCoder())
        boxes = crowd(seed % 4, seed + 100)
        labels = torch.randint(1, 4, (len(boxes),), generator=generator(seed))
        numbers = torch.randn(40, 7, generator=generator(seed), dtype=torch.double)
        logits = numbers[:, :3]
        acts = numbers[:, 3:]
        loss = MultiBoxLoss(anchors, 4, CLASS_LOSSES[class_loss](),
                            box_loss=BOX_LOSSES[box_loss]())
        preds = torch.cat([logits[:, :1] * 0, logits], 1)[None], acts[None]
        wanted.append(torch.stack(loss.terms(preds, boxes[None], labels[None])))
        given = [anchors.xyxy, logits, acts, boxes, labels]
        calls.append([*(t.tolist() for t in given), class_loss, box_loss])
    kinds = set()
    for got, want in zip(js('multiBoxLoss', calls), wanted):
        kinds |= {min(label, 1) for label in got['labels']}
        sums = double([sum(got['classTerms']), sum(got['boxTerms'])])
        assert_close(sums, want.double(), rtol=1e-6, atol=1e-9)
    assert kinds == {-1, 0, 1}


@pytest.mark.parametrize('steps', [None, 8])
def test_nms_is_torchvisions(js, steps):
    calls = []
    for seed in range(30):
        scores = torch.rand(40, generator=generator(seed), dtype=torch.double)
        if steps:
            scores = (scores * steps).round() / steps
        boxes = crowd(40, seed, steps).tolist()
        calls += [[boxes, scores.tolist(), t] for t in (0, .25, .5, .9, 1)]
    kept = [nms(double(b), double(s), t).tolist() for b, s, t in calls]
    assert js('nms', calls) == kept
    assert len({len(k) for k in kept}) > 5
    assert js('nms', [[[], [], .5]]) == [[]]


def pairs_of(boxes, scores):
    "Boxes, labels and scores, one row for each anchor and class."
    n, c = scores.shape
    rows = [(i, j) for i in range(n) for j in range(c)]
    return ([boxes[i].tolist() for i, _ in rows], [j + 1 for _, j in rows],
            [scores[i, j].item() for i, j in rows])


@pytest.mark.parametrize('seed', range(10))
def test_suppression_is_the_chapters(js, seed):
    boxes = crowd(30, seed).float()
    scores = torch.rand(30, 3, generator=generator(seed))
    wanted, = non_max_suppression(boxes[None], scores[None], .3, .4)
    rows = pairs_of(boxes, scores)
    kept, = js('nonMaxSuppression', [[*rows, .3, .4]])
    for values, want in zip(rows, wanted):
        assert [values[k] for k in kept] == want.tolist()
    assert 3 < len(kept) < (scores >= .3).sum()


@pytest.mark.parametrize('seed', range(5))
def test_each_decision_has_its_reason(js, seed):
    boxes = crowd(60, seed)
    labels = torch.randint(1, 3, (60,), generator=generator(seed))
    scores = torch.rand(60, generator=generator(seed), dtype=torch.double)
    iou = box_iou(boxes, boxes)
    given = [boxes.tolist(), labels.tolist(), scores.tolist()]
    decisions, = js('decisions', [[*given, .2, .3]])
    order = scores.argsort(descending=True)
    assert [d['box'] for d in decisions] == order[scores[order] >= .2].tolist()
    kept = []
    for d in decisions:
        rivals = [k for k in kept if labels[k] == labels[d['box']]]
        over = [k for k in rivals if iou[k, d['box']] > .3]
        assert d['kept'] == (not over)
        want = over[0] if over else max(rivals, key=lambda k: iou[k, d['box']], default=-1)
        assert d['rival'] == want
        if rivals:
            assert d['iou'] == pytest.approx(iou[want, d['box']].item())
        if d['kept']:
            kept.append(d['box'])
    assert 1 < len(kept) < len(decisions)


def test_precision_recall_and_average_precision(js):
    calls = []
    for seed in range(40):
        hits = torch.randint(0, 2, (seed,), generator=generator(seed))
        calls.append([hits.tolist(), int(hits.sum()) + seed % 3])
    curves = js('precisionRecall', calls)
    areas = js('averagePrecision', [[c['precision'], c['recall']] for c in curves])
    for (hits, n_objects), curve, area in zip(calls, curves, areas):
        precision, recall = precision_recall(hits, n_objects)
        assert np.allclose(curve['precision'], precision, rtol=0, atol=1e-12)
        assert np.allclose(curve['recall'], recall, rtol=0, atol=1e-12)
        assert area == pytest.approx(average_precision(precision, recall))
    assert len(set(areas)) > 20


def literals(chapter):
    "What the code cells of a chapter assign literally."
    values = []
    for cell in json.loads((ROOT/f'nbs/{chapter}.ipynb').read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or '%' in source:
            continue
        for node in ast.walk(ast.parse(source)):
            try:
                values += [ast.literal_eval(node.value)] if isinstance(node, ast.Assign) else []
            except ValueError:
                continue
    return values


def test_the_twelve_detections_are_the_chapters(js):
    example, = js('twelve', [[]])
    detections = example['detections']
    assert [d[1] for d in detections] == sorted((d[1] for d in detections), reverse=True)
    rows = [[], [], []]
    for picture, *score_and_box, _ in detections:
        rows[picture].append(tuple(score_and_box))
    chapter = literals('12_evaluate')
    assert example['stars'] in chapter
    # in the chapter, too, each picture has its rows by falling score
    assert rows in chapter


def test_hits_of_the_twelve_are_what_the_library_finds(js):
    example, = js('twelve', [[]])
    for i, stars in enumerate(example['stars']):
        rows = np.array([d[1:6] for d in example['detections'] if d[0] == i])
        names = ['star'] * len(rows)
        outcome, _ = match_detections(Detections(rows[:, 1:], names, rows[:, 0], None),
                                      Sample('', stars, ['star'] * len(stars)))
        assert outcome.tolist() == [d[6] for d in example['detections'] if d[0] == i]


# ---- as they stand in the book

def divs():
    "All elements of figures, from markdown cells and outputs of the book."
    texts = []
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        if '.ipynb_checkpoints' in path.parts:
            continue
        for cell in json.loads(path.read_text())['cells']:
            if cell['cell_type'] == 'markdown':
                texts.append(''.join(cell['source']))
            outputs = [o.get('data', {}).get('text/html', '') for o in cell.get('outputs', [])]
            texts += [''.join(text) for text in outputs]
    return re.findall(r'<div class="play" data-figure=.*?</div>', '\n'.join(texts), re.DOTALL)


def named(div):
    return re.search('data-figure="(.*?)"', div)[1]


def test_each_figure_stands_in_the_book_with_a_text_for_other_places():
    found = divs()
    assert {named(div) for div in found} == {*FIGURES, LIVE}
    for div in found:
        assert re.search('>([^<]+)</div>', div)[1].strip().endswith('.')


def test_files_are_narrow():
    for path in [*SCRIPTS, *STATIC.glob('live/*.js'), *STATIC.glob('*.css')]:
        if path.name == 'site.css':
            continue
        wide = [line for line in path.read_text().splitlines() if len(line) > 96]
        assert wide == [], path.name


# ---- in a browser

@pytest.fixture(scope='module')
def figures(tmp_path_factory):
    "Address of a page with all figures."
    folder = tmp_path_factory.mktemp('figures')
    for path in [*SCRIPTS, STATIC/'play.css']:
        shutil.copy(path, folder)
    scripts = ''.join(f'<script src="{path.name}"></script>' for path in SCRIPTS)
    with_data = [div for div in divs() if named(div) == 'nms']
    plain = [f'<div class="play" data-figure="{f}"></div>' for f in FIGURES if f != 'nms']
    head = ('<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>figures</title>'
            '<meta name="viewport" content="width=device-width">'
            '<link rel="stylesheet" href="play.css">')
    (folder/'index.html').write_text(head + scripts + '\n'.join(plain + with_data[:1]))
    return (folder/'index.html').as_uri()


@pytest.fixture(params=[1000, 390], ids=['desk', 'phone'])
def page(request, browser, figures):
    "The page, wide or narrow. Nothing is written to the console or fetched from elsewhere."
    size = dict(width=request.param, height=800)
    page = browser.new_page(viewport=size, has_touch=request.param == 390)
    page.set_default_timeout(10_000)
    faults = []
    asked = []
    page.on('console', lambda m: faults.append(m.text))
    page.on('pageerror', lambda e: faults.append(str(e)))
    page.on('request', lambda r: asked.append(r.url))
    page.goto(figures)
    yield page
    page.close()
    here = (figures.rsplit('/', 1)[0], 'data:')
    assert faults == []
    assert [url for url in asked if not url.startswith(here)] == []
    assert len(asked) >= len(SCRIPTS) + 2


def part(page, figure, css):
    return page.locator(f'.play[data-figure={figure}] {css}')


def control(page, figure, label):
    return part(page, figure, '').get_by_label(label, exact=True)


def read(page, figure):
    return part(page, figure, '.play-text').inner_text()


def number(page, figure, before):
    "The number that follows some words in the text."
    return float(re.search(before + r' (\d[\d.]*\d|\d)', read(page, figure))[1])


def box_in_text(page, figure, name):
    found = re.search(rf'{name} \(([^)]*)\)', read(page, figure))[1]
    return [float(v) for v in found.split(', ')]


def table_rows(page, figure):
    "Rows of a figure's table, without the head."
    rows = part(page, figure, '.play-table tbody tr').all()
    return [row.locator('th, td').all_inner_texts() for row in rows]


def table(page, figure):
    "Rows of a figure's table by their first cell."
    return {first.replace('\xad', ''): rest for first, *rest in table_rows(page, figure)}


def drawn_box(locator):
    "xyxy in [0,1] of a rect."
    x, y, w, h = [float(locator.get_attribute(k)) / 100 for k in ('x', 'y', 'width', 'height')]
    return [x, y, x + w, y + h]


def objects(page, figure):
    "`(2,4)` boxes of star and heart as they are drawn."
    boxes = [drawn_box(part(page, figure, f'.play-box.play-{n}')) for n in ('star', 'heart')]
    return tensor(boxes).mul(100).round() / 100


def swipe(page, locator):
    "A finger moves up and to the right, where a page would scroll."
    x, y = middle(locator)
    finger = page.context.new_cdp_session(page)
    for kind, d in [('Start', 0), ('Move', 15), ('Move', 30), ('Move', 45), ('End', None)]:
        points = [] if d is None else [dict(x=x + d, y=y - d)]
        finger.send('Input.dispatchTouchEvent', dict(type=f'touch{kind}', touchPoints=points))


def slide(page, figure, label, value):
    "Move a slider with the arrow keys."
    slider = control(page, figure, label)
    slider.focus()
    key = 'ArrowRight' if value > float(slider.input_value()) else 'ArrowLeft'
    while abs(float(slider.input_value()) - value) > 1e-6:
        page.keyboard.press(key)


def pull(page, figure, label, share):
    "Move a slider with the mouse, to a share of its way."
    slider = control(page, figure, label)
    slider.scroll_into_view_if_needed()
    b = slider.bounding_box()
    page.mouse.click(b['x'] + share * b['width'], b['y'] + b['height'] / 2)
    return float(slider.input_value())


# ---- IoU

def check_iou(page):
    "The text has the IoU of the boxes in the text, and the drawing has the same boxes."
    star = box_in_text(page, 'iou', 'star')
    anchor = box_in_text(page, 'iou', 'anchor')
    want = box_iou(tensor([star]), tensor([anchor])).item()
    assert number(page, 'iou', 'IoU') == pytest.approx(want, abs=6e-4)
    union = number(page, 'iou', 'union')
    assert number(page, 'iou', 'intersection') == pytest.approx(want * union, abs=1e-4)
    assert_close(drawn_box(part(page, 'iou', '.play-box.play-star')), star)
    bar = float(part(page, 'iou', '.play-bar').get_attribute('width'))
    assert bar == pytest.approx(100 * want, abs=.01)
    text = read(page, 'iou')
    assert ('Goal reached' in text) == (abs(want - .5) < .005)
    assert 'Goal reached' in text or ('too small' in text) == (want < .5)
    return star, want


def test_iou_begins_as_in_the_chapter(page):
    assert check_iou(page) == ([.1, .2, .5, .6], pytest.approx(.12 / .29))
    assert number(page, 'iou', 'union') == .29


def test_the_union_is_one_area(page):
    fills = part(page, 'iou', '.play-union rect').evaluate_all(
        'all => all.map(r => [getComputedStyle(r).fill, getComputedStyle(r).opacity])')
    assert len(fills) == 2
    assert fills[0] == fills[1]
    # only the group is faded, or the overlap would be darker
    assert fills[0][1] == '1'


def test_iou_with_the_mouse(page):
    star, first = check_iou(page)
    drag(page, part(page, 'iou', '.play-box.play-star'), 30, 20)
    moved, second = check_iou(page)
    assert moved[0] > star[0] and moved[1] > star[1] and second < first
    # moved, not resized
    assert_close(tensor(moved[2:]) - tensor(moved[:2]), tensor([.4, .4]))
    drag(page, part(page, 'iou', '.play-corner.play-star'), -30, 15)
    resized, third = check_iou(page)
    assert resized[:2] == moved[:2] and resized[2] < moved[2] and resized[3] > moved[3]
    assert third != second
    drag(page, part(page, 'iou', '.play-box.play-star'), 3000, -3000)
    star, none = check_iou(page)
    # inside the picture
    assert (star[1], star[2], none) == (0, 1, 0)


def test_iou_with_the_keyboard(page):
    star = part(page, 'iou', '.play-box.play-star')
    press_keys(page, star, 'ArrowRight', 'ArrowRight', 'ArrowUp')
    assert check_iou(page)[0] == [.12, .19, .52, .59]
    press_keys(page, star, 'Shift+ArrowLeft', 'Shift+ArrowDown', 'Shift+ArrowDown')
    assert check_iou(page)[0] == [.12, .19, .51, .61]
    # the other box
    press_keys(page, star, 'Tab', 'ArrowDown')
    assert check_iou(page)[0] == [.12, .19, .51, .61]
    assert box_in_text(page, 'iou', 'anchor') == [0, .01, .5, .51]
    assert page.evaluate('scrollY') == 0


def test_the_goal_can_be_reached(page):
    press_keys(page, part(page, 'iou', '.play-box.play-star'), *['ArrowUp'] * 4)
    check_iou(page)
    assert 'Goal reached' in read(page, 'iou')


@pytest.mark.parametrize('page', [390], indirect=True)
@pytest.mark.parametrize('figure', ['iou', 'anchors', 'matching'])
def test_boxes_follow_a_finger(page, figure):
    star = part(page, figure, '.play-box.play-star')
    before = drawn_box(star)
    star.scroll_into_view_if_needed()
    scrolled = page.evaluate('scrollY')
    swipe(page, star)
    after = drawn_box(star)
    assert after[0] > before[0] + .05 and after[1] < before[1] - .05
    assert page.evaluate('scrollY') == scrolled


# ---- anchors

def check_anchors(page, grids, zooms, ratios):
    "Number of anchors, best IoU of each object, and positive anchors at both thresholds."
    anchors = make_anchors(grids, zooms, ratios)
    boxes = objects(page, 'anchors')
    assert number(page, 'anchors', '=') == len(anchors)
    assert part(page, 'anchors', '.play-anchors rect').count() == len(anchors)
    best = box_iou(boxes, anchors.xyxy).amax(1)
    matches = [match(anchors, boxes, tensor([1, 2]), t) for t in (.5, .4)]
    rows = table(page, 'anchors')
    for i, name in enumerate(['star', 'heart']):
        shown, *counts = rows[name]
        assert float(shown) == pytest.approx(best[i].item(), abs=6e-4)
        assert counts == [f'{(m.labels == i + 1).sum()}' for m in matches]
    n_forced = int((matches[1].iou > 1).sum())
    n_positive = int((matches[1].labels > 0).sum())
    assert part(page, 'anchors', '.play-forced').count() == n_forced
    more = part(page, 'anchors', '.play-anchors .play-positive').count()
    assert more == n_positive - n_forced
    assert ('no forced match' in read(page, 'anchors')) == (n_forced < 2)
    return rows


def test_anchors_with_the_mouse(page):
    first = check_anchors(page, *SETS[0])
    for name in ['2x2', '1x1']:
        control(page, 'anchors', name).click()
    check_anchors(page, (4, 2, 1), *SETS[0][1:])
    for name in ['0.7', '1.3', '1 : 0.5', '0.5 : 1']:
        control(page, 'anchors', name).click()
    all_of_them = check_anchors(page, *SETS[1])
    assert int(all_of_them['heart'][2]) > int(first['heart'][2])
    drag(page, part(page, 'anchors', '.play-corner.play-star'), 25, 25)
    assert check_anchors(page, *SETS[1])['star'] != all_of_them['star']


def test_anchors_with_the_keyboard(page):
    for name in ['4x4', '1x1']:
        press_keys(page, control(page, 'anchors', name), ' ')
    # the only anchor is the best one for both objects: the later one gets it
    rows = check_anchors(page, (1,), *SETS[0][1:])
    assert rows['star'][1:] == ['0', '0']
    press_keys(page, control(page, 'anchors', '2x2'), ' ')
    before = check_anchors(page, (2, 1), *SETS[0][1:])
    press_keys(page, part(page, 'anchors', '.play-box.play-heart'), *['Shift+ArrowUp'] * 9)
    assert check_anchors(page, (2, 1), *SETS[0][1:])['heart'] != before['heart']


def test_no_anchors(page):
    control(page, 'anchors', '4x4').click()
    assert '= 0 anchors' in read(page, 'anchors')
    assert 'Without anchors' in read(page, 'anchors')
    assert table(page, 'anchors') == dict(star=['-', '0', '0'], heart=['-', '0', '0'])


# ---- matching

FIVE = tensor([[0, 0, .5, .5], [0, .5, .5, 1], [.5, 0, 1, .5], [.5, .5, 1, 1],
               [.25, .25, .75, .75]])


def check_matching(page, match_thresh, neg_thresh):
    "The table of IoUs with its marks, the target of each anchor, and the counts."
    sliders = [control(page, 'matching', n) for n in ('match_thresh', 'neg_thresh')]
    assert [float(s.input_value()) for s in sliders] == [match_thresh, neg_thresh]
    boxes = objects(page, 'matching')
    anchors = replace(make_anchors((2,)), cxcywh=xyxy_to_cxcywh(FIVE))
    iou = box_iou(boxes, FIVE)
    m = match(anchors, boxes, tensor([1, 2]), match_thresh, neg_thresh)
    rows = table(page, 'matching')
    for i, name in enumerate(['star', 'heart']):
        assert_close(tensor([float(v) for v in rows[name]]), iou[i], rtol=0, atol=.0051)
        cells = part(page, 'matching', f'tbody tr:nth-child({i + 1}) td')
        kinds = [c.get_attribute('class') for c in cells.all()]
        assert ['play-row-max' in k for k in kinds] == [a == iou[i].argmax() for a in range(5)]
        best = (iou[i] > 0) & (iou.argmax(0) == i)
        assert ['play-column-max' in k for k in kinds] == best.tolist()
    names = {-1: 'ignored', 0: 'background', 1: 'star', 2: 'heart'}
    want = [names[label] for label in m.labels.tolist()]
    forced = [' forced' if f else '' for f in m.iou > 1]
    texts = [t.replace('\xad', '').replace('\n', ' ') for t in rows['target']]
    assert texts == [w + f for w, f in zip(want, forced)]
    # at that threshold an anchor is positive, above it is not
    limits = ['any' if f else f'{v:.2f}' for f, v in zip(m.iou > 1, iou.amax(0).tolist())]
    assert rows['positive up to'] == limits
    counts = [int((m.labels > 0).sum()), int((m.labels == 0).sum()), int((m.labels < 0).sum())]
    assert '{} positive, {} background, {} ignored'.format(*counts) in read(page, 'matching')
    for kind, n in [('forced', sum(map(bool, forced))), ('ignored', counts[2])]:
        assert part(page, 'matching', f'.play-anchors rect.play-{kind}').count() == n
    return texts


def test_matching_begins_as_in_the_chapter(page):
    assert check_matching(page, .4, .4) == ['star forced', 'background', 'background',
                                            'heart forced', 'background']


def test_matching_with_the_keyboard(page):
    slide(page, 'matching', 'match_thresh', .27)                # neg_thresh goes with it
    check_matching(page, .27, .27)
    slide(page, 'matching', 'neg_thresh', .1)
    assert check_matching(page, .27, .1)[1] == 'ignored'
    slide(page, 'matching', 'match_thresh', .35)                # the zone keeps its width
    check_matching(page, .35, .18)
    press_keys(page, control(page, 'matching', 'neg_thresh'), 'End')
    check_matching(page, .35, .35)                              # never above match_thresh
    heart = part(page, 'matching', '.play-box.play-heart')
    press_keys(page, heart, *['ArrowLeft', 'ArrowUp'] * 24)
    check_matching(page, .35, .35)


def test_matching_with_the_mouse(page):
    before = check_matching(page, .4, .4)
    share = pull(page, 'matching', 'match_thresh', .8)
    assert share > .7
    check_matching(page, share, share)
    width = part(page, 'matching', 'svg').bounding_box()['width'] / 108
    drag(page, part(page, 'matching', '.play-box.play-heart'), -40 * width, -30 * width)
    assert check_matching(page, share, share) != before


def test_two_objects_force_one_anchor(page):
    heart = part(page, 'matching', '.play-box.play-heart')
    press_keys(page, heart, *['ArrowLeft'] * 50, *['ArrowUp'] * 50, *['Shift+ArrowLeft'] * 5)
    texts = check_matching(page, .4, .4)
    assert texts[0] == 'heart forced'
    assert 'the star has no forced match' in read(page, 'matching')


# ---- coders

CODERS = dict(TanhCoder=TanhCoder(), SSDCoder=SSDCoder())
ACTS = ['a0: centre x', 'a1: centre y', 'a2: width', 'a3: height']


def check_coder(page, name):
    "The text and the drawing have the box that the library decodes."
    assert control(page, 'coder', name).is_checked()
    acts = tensor([[float(control(page, 'coder', a).input_value()) for a in ACTS]])
    # the second cell in both directions of a 4x4 grid
    anchor = replace(make_anchors(coder=CODERS[name]), cxcywh=tensor([[.375, .375, .25, .25]]),
                     cell=tensor([[.25, .25]]))
    want = anchor.decode(acts)
    assert_close(tensor(box_in_text(page, 'coder', 'box')), want[0], rtol=0, atol=.0051)
    assert_close(tensor(drawn_box(part(page, 'coder', '.play-decoded'))), want[0])
    iou = box_iou(want, tensor([[.1, .2, .5, .6]])).item()
    assert number(page, 'coder', 'IoU with the star') == pytest.approx(iou, abs=6e-4)
    return acts[0].tolist(), iou


def test_coder_begins_with_the_anchor(page):
    assert check_coder(page, 'TanhCoder') == ([0, 0, 0, 0], pytest.approx(.25 * .25 / .16))


def test_coder_with_the_keyboard(page):
    slide(page, 'coder', ACTS[0], -1)
    slide(page, 'coder', ACTS[3], 2)
    assert check_coder(page, 'TanhCoder')[0] == [-1, 0, 0, 2]
    press_keys(page, control(page, 'coder', 'TanhCoder'), 'ArrowRight')
    assert check_coder(page, 'SSDCoder')[0] == [-1, 0, 0, 2]


def test_coder_with_the_mouse(page):
    for i, share in enumerate([.2, .6, .9, .75]):
        pull(page, 'coder', ACTS[i], share)
    tanh = check_coder(page, 'TanhCoder')
    control(page, 'coder', 'SSDCoder').click()
    ssd = check_coder(page, 'SSDCoder')
    assert tanh[0] == ssd[0] and tanh[1] != ssd[1]
    part(page, 'coder', 'button').filter(has_text='All zero').click()
    assert check_coder(page, 'SSDCoder')[0] == [0, 0, 0, 0]


def test_only_one_coder_reaches_the_star(page):
    fit = part(page, 'coder', 'button').filter(has_text='Fit the star')
    fit.click()
    assert check_coder(page, 'TanhCoder')[1] == pytest.approx(.375**2 / .16, abs=2e-3)
    control(page, 'coder', 'SSDCoder').click()
    press_keys(page, fit, 'Enter')
    assert check_coder(page, 'SSDCoder')[1] > .998


def test_reach_of_the_coders(page):
    rows = table(page, 'coder')
    for name, coder in CODERS.items():
        anchor = replace(make_anchors(coder=coder), cxcywh=tensor([[.375, .375, .25, .25]]),
                         cell=tensor([[.25, .25]]))
        for column, a in enumerate([2., 6., 1e6]):
            x, _, width, _ = xyxy_to_cxcywh(anchor.decode(torch.full((1, 4), a)))[0].tolist()
            assert float(rows[f'{name}, width'][column]) == pytest.approx(width, abs=6e-4)
            if name == 'TanhCoder' or a < 10:
                centre = rows[f'{name}, centre'][column]
                assert float(centre.strip('±')) == pytest.approx(x - .375, abs=6e-4)
    assert rows['SSDCoder, centre'][2] == 'none'


# ---- focal loss

def check_gamma(page, alpha, gamma):
    "Losses of the four kinds of predictions, and who makes up the loss."
    focal = FocalLoss(alpha, gamma)
    def loss(p, truth):
        act = torch.logit(tensor(p if truth else 1 - p))
        return focal(tensor([[0, act]]), tensor([truth])).item() * 2
    rows = table(page, 'gamma')
    for truth, name in [(0, 'negative'), (1, 'positive')]:
        for shown, p in zip(rows[name], (.95, .2)):
            assert float(shown.split()[0]) == pytest.approx(loss(p, truth), rel=6e-3)
    easy = 316 * loss(.95, 0)
    hard = 4 * loss(.2, 1)
    share = 100 * easy / (easy + hard)
    assert number(page, 'gamma', 'easy negatives make up') == pytest.approx(share, abs=.06)
    bar = part(page, 'gamma', 'rect.play-loss-negative')
    assert float(bar.get_attribute('width')) == pytest.approx(share, abs=.01)
    return share, part(page, 'gamma', 'path.play-loss-positive').last.get_attribute('d')


def test_gamma_begins_as_focal_loss_does(page):
    defaults = signature(FocalLoss).parameters
    share, _ = check_gamma(page, defaults['alpha'].default, defaults['gamma'].default)
    assert share == pytest.approx(32.1, abs=.05)


def test_gamma_with_the_keyboard(page):
    seen = [check_gamma(page, .25, 1)]
    for label, value, settings in [
            ('gamma', 2, (.25, 2)), ('alpha', .5, (.5, 2)), ('gamma', 0, (.5, 0))]:
        slide(page, 'gamma', label, value)
        seen.append(check_gamma(page, *settings))
    shares, curves = zip(*seen)
    assert len(set(curves)) == 4
    assert shares[1] < shares[0] and shares[2] < shares[1] and shares[3] > 70


def test_gamma_with_the_mouse(page):
    gamma = pull(page, 'gamma', 'gamma', .9)
    alpha = pull(page, 'gamma', 'alpha', .8)
    assert gamma > 4 and alpha > .7
    check_gamma(page, alpha, gamma)


def test_easy_predictions_can_be_told_apart(page):
    "On the logarithmic scale, losses from p = 0.6 on fill a good part of the height."
    d = part(page, 'gamma', 'path.play-loss-negative').last.get_attribute('d')
    points = [p.split() for p in d[1:].split('L')]
    heights = [float(y) for x, y in points if 60 <= float(x) <= 95]
    assert max(heights) - min(heights) > 12


# ---- the loss by hand

STAR_AND_HEART = tensor([[.1, .2, .5, .6], [.5, .5, .9, 1]])
NUMBERS = ['logit star', 'logit heart', 'centre x', 'centre y', 'width', 'height']


def check_loss(page, numbers, class_loss='focal', box_loss='offsets'):
    "Sums and terms for the numbers `(5,6)` of all anchors."
    numbers = tensor(numbers)
    anchors = replace(make_anchors((2,), coder=SSDCoder()), cxcywh=xyxy_to_cxcywh(FIVE),
                      cell=torch.ones(5, 2))
    loss = MultiBoxLoss(anchors, 3, CLASS_LOSSES[class_loss](),
                        box_loss=BOX_LOSSES[box_loss]())
    preds = torch.cat([torch.zeros(5, 1), numbers[:, :2]], 1)[None], numbers[None, :, 2:]
    terms = loss.terms(preds, STAR_AND_HEART[None], tensor([[1, 2]]))
    classes, boxes = [t.item() for t in terms]
    shown = [number(page, 'loss', text) for text in ('Loss', 'class loss', 'box loss')]
    assert shown == pytest.approx([classes + boxes, classes, boxes], abs=6e-4)
    rows = table(page, 'loss')
    of_classes = [float(rows[f'{a}'][1]) for a in range(5)]
    of_boxes = [float(rows[a][2]) for a in ('0', '3')]
    assert sum(of_classes) == pytest.approx(classes, abs=3e-3)
    assert sum(of_boxes) == pytest.approx(boxes, abs=2e-3)
    assert [rows[f'{a}'][0] for a in range(5)] == ['star', 'background', 'background', 'heart',
                                                   'background']
    return shown


def test_loss_by_hand(page):
    numbers = [[0.] * 6 for _ in range(5)]
    first = check_loss(page, numbers)
    for i, value in enumerate([1.5, -1, .8, 1.4, -.5, -1.1]):
        slide(page, 'loss', NUMBERS[i], value)
        numbers[0][i] = value
    star = check_loss(page, numbers)
    assert star[1] < first[1] and star[2] < first[2]
    press_keys(page, control(page, 'loss', '0'), *['ArrowRight'] * 4)
    slide(page, 'loss', NUMBERS[0], 3)
    numbers[4][0] = 3
    assert check_loss(page, numbers)[1] > star[1]
    for class_loss in ['varifocal', 'hard_negatives']:
        control(page, 'loss', class_loss).click()
        check_loss(page, numbers, class_loss)
    control(page, 'loss', 'giou').click()
    check_loss(page, numbers, 'hard_negatives', 'giou')
    drawn = drawn_box(part(page, 'loss', '.play-decoded'))
    assert drawn == pytest.approx(FIVE[4].tolist())
    part(page, 'loss', 'button').click()
    check_loss(page, [[0.] * 6] * 5, 'hard_negatives', 'giou')


# ---- non-maximum suppression

@pytest.fixture
def crowded(page):
    "Boxes, scores, classes and names of the figure."
    rows = json.loads(part(page, 'nms', '').get_attribute('data-boxes'))
    names = [r[4] for r in rows]
    classes = tensor([sorted(set(names)).index(n) for n in names])
    return double([r[:4] for r in rows]), double([r[5] for r in rows]), classes, names


def check_nms(page, crowded, score_thresh, nms_thresh):
    "As many boxes are kept as torchvision keeps."
    boxes, scores, classes, _ = crowded
    ok = scores >= score_thresh
    kept = len(batched_nms(boxes[ok], scores[ok], classes[ok], nms_thresh))
    lost = int(ok.sum()) - kept
    head = f'of at least {score_thresh:.2f}: {kept} kept, {lost} suppressed'
    assert head in ' '.join(read(page, 'nms').split())
    assert part(page, 'nms', '.play-kept').count() == kept
    assert part(page, 'nms', '.play-faint').count() == lost
    return kept


def test_nms_with_the_keyboard(page, crowded):
    kept = [check_nms(page, crowded, .3, .5)]
    for label, value, thresholds in [
            ('nms_thresh', .9, (.3, .9)), ('score_thresh', .15, (.15, .9)),
            ('nms_thresh', .1, (.15, .1)), ('score_thresh', 1, (1, .1))]:
        slide(page, 'nms', label, value)
        kept.append(check_nms(page, crowded, *thresholds))
    assert kept[0] < kept[1] < kept[2] > kept[3] > kept[4] == 0
    assert part(page, 'nms', 'button').is_disabled()


def test_nms_with_the_mouse(page, crowded):
    score_thresh = pull(page, 'nms', 'score_thresh', .5)
    nms_thresh = pull(page, 'nms', 'nms_thresh', .8)
    assert score_thresh > .4 and nms_thresh > .7
    check_nms(page, crowded, score_thresh, nms_thresh)


def test_nms_step_by_step(page, crowded):
    boxes, scores, classes, names = crowded
    iou = box_iou(boxes, boxes)
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= .3].tolist()
    button = part(page, 'nms', 'button')
    button.click()
    assert '0 kept, 0 suppressed so far' in read(page, 'nms')
    kept = []
    for n, i in enumerate(order[:12], 1):
        if n % 2:
            button.click()
        else:
            press_keys(page, button, 'Enter')
        rivals = [k for k in kept if classes[k] == classes[i]]
        over = [k for k in rivals if iou[k, i] > .5]
        line = read(page, 'nms')
        assert f'Decision {n} of {len(order)}: {names[i]} {scores[i]:.2f}' in line
        if over:
            rival = f'{names[over[0]]} {scores[over[0]]:.2f}'
            assert f'is suppressed by {rival}: IoU {iou[over[0], i]:.2f}' in line
        else:
            assert 'is kept' in line
            kept.append(i)
        question = drawn_box(part(page, 'nms', '.play-question'))
        assert_close(double(question), boxes[i])
        assert part(page, 'nms', '.play-rival').count() == bool(rivals)
        assert part(page, 'nms', '.play-kept').count() == len(kept)
    assert 0 < len(kept) < 12
    slide(page, 'nms', 'decisions', 3)
    assert 'Decision 3 of' in read(page, 'nms')
    press_keys(page, control(page, 'nms', 'decisions'), 'End')
    check_nms(page, crowded, .3, .5)


def test_nms_shows_how_much_kept_boxes_overlap_those_they_suppress(page, crowded):
    boxes, scores, classes, names = crowded
    ok = (scores >= .3).nonzero()[:, 0]
    kept = ok[batched_nms(boxes[ok], scores[ok], classes[ok], .5)].tolist()
    iou = box_iou(boxes, boxes)
    groups = {k: [] for k in kept}
    for i in set(ok.tolist()) - set(kept):
        rival = next(k for k in kept if classes[k] == classes[i] and iou[k, i] > .5)
        groups[rival].append(iou[rival, i].item())
    # two boxes may have the same name and score, so not by their first cell
    for (_, count, values), k in zip(table_rows(page, 'nms'), kept[:6]):
        assert int(count) == len(groups[k])
        if len(groups[k]) > 1:
            assert values == f'{min(groups[k]):.2f} to {max(groups[k]):.2f}'


def test_a_box_between_two_is_pointed_out(page, crowded):
    boxes, scores, classes, names = crowded
    ok = (scores >= .3).nonzero()[:, 0]
    kept = ok[batched_nms(boxes[ok], scores[ok], classes[ok], .5)].tolist()
    iou = box_iou(boxes, boxes)
    between = []
    for n, i in enumerate(kept):
        near = [k for k in kept[:n] if classes[k] == classes[i] and iou[k, i] > .2]
        between += [i] if len(near) > 1 else []
    want = [f'{names[i]} {scores[i]:.2f} lies between two better boxes' for i in between[:1]]
    found = re.findall(r'\w+ [\d.]+ lies between two better boxes', read(page, 'nms'))
    assert found == want


# ---- precision and recall

def check_precision_recall(page, js, threshold):
    "Counts, both rates, the dot on the curve, and the boxes in their colours."
    detections = js('twelve', [[]])[0]['detections']
    hits = [d[6] for d in detections]
    n = sum(d[1] >= threshold for d in detections)
    precision, recall = precision_recall(hits, 5)
    tp = sum(hits[:n])
    rows = table(page, 'precision-recall')
    counts = [int(rows[k][1]) for k in ('TP', 'FP', 'FN')]
    assert counts == [tp, n - tp, 5 - tp]
    assert rows['recall'][1] == f'{tp}/5 = {tp / 5:.2f}'
    assert rows['precision'][1] == (f'{tp}/{n} = {tp / n:.2f}' if n else '-')
    dot = part(page, 'precision-recall', '.play-operating')
    x, y = [float(dot.get_attribute(k)) for k in ('cx', 'cy')]
    place = (recall[n - 1], precision[n - 1]) if n else (0, 1)
    assert (x / 100, 1 - (y - 44) / 60) == pytest.approx(place)
    for kind, many in [('true', tp), ('false', n - tp), ('under', 12 - n)]:
        css = f'.play-detection.play-{kind}'
        assert part(page, 'precision-recall', css).count() == many
    assert part(page, 'precision-recall', '.play-missed').count() == 5 - tp
    area = average_precision(precision, recall)
    assert number(page, 'precision-recall', 'AP') == pytest.approx(area, abs=6e-4)
    return n


def test_precision_recall_with_the_keyboard(page, js):
    seen = [check_precision_recall(page, js, .5)]
    for threshold in [.3, .55, .56, .95, 1, 0]:
        slide(page, 'precision-recall', 'score threshold', threshold)
        seen.append(check_precision_recall(page, js, threshold))
    assert seen == [7, 10, 7, 6, 1, 0, 12]


def test_precision_recall_with_the_mouse(page, js):
    threshold = pull(page, 'precision-recall', 'score threshold', .75)
    assert .6 < threshold < .9
    check_precision_recall(page, js, threshold)


def test_the_shaded_area_is_the_average_precision(page):
    "By the corners of its outline, against the 43/70 of the chapter."
    d = part(page, 'precision-recall', '.play-ap').get_attribute('d')
    points = []
    at = [0., 0.]
    for name, numbers in re.findall(r'([MHV])([^MHVZ]*)', d):
        values = [float(v) for v in numbers.split()]
        at = values if name == 'M' else [*values, at[1]] if name == 'H' else [at[0], *values]
        points.append(at)
    turned = [*points[1:], points[0]]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, turned)) / 2
    assert abs(area) / 6000 == pytest.approx(43 / 70, abs=1e-3)


# ---- all of them

def test_every_figure_can_be_read_and_used(page):
    assert page.evaluate('document.documentElement.scrollWidth') <= page.viewport_size['width']
    assert page.locator('.play').count() == len(FIGURES)
    assert page.locator('.play [aria-live=polite]').count() == len(FIGURES)
    for svg in page.locator('.play svg').all():
        assert svg.get_attribute('aria-label')
        assert svg.bounding_box()['width'] > 300
    for handle in page.locator('.play svg [tabindex]').all():
        assert handle.get_attribute('role')
        assert 'arrow' in handle.get_attribute('aria-label')
    assert page.evaluate('''[...document.querySelectorAll('.play input')].every(
        i => i.labels.length == 1 && i.labels[0].textContent.trim())''')
    assert page.evaluate('''[...document.querySelectorAll('.play table')].every(
        t => t.ariaLabel && [...t.querySelectorAll('th')].every(h => h.scope))''')
    for text in page.locator('.play svg text').all():
        size = text.bounding_box()
        assert not size or size['height'] >= 8


def test_tables_and_texts_stay_inside(page):
    "Nothing is wider than its figure, however narrow."
    assert page.evaluate('''[...document.querySelectorAll('.play')].flatMap(div => {
        const right = div.getBoundingClientRect().right
        return [...div.querySelectorAll('table, p, label, button')]
            .filter(e => e.getBoundingClientRect().right > right)
            .map(e => div.dataset.figure + ': ' + e.textContent)})''') == []


def test_nothing_moves_by_itself(page):
    page.emulate_media(reduced_motion='reduce')
    before = page.locator('.play').all_inner_texts()
    press_keys(page, part(page, 'iou', '.play-box.play-star'), 'ArrowUp')
    assert page.evaluate('document.getAnimations().length') == 0
    page.wait_for_timeout(300)
    assert page.locator('.play').all_inner_texts()[1:] == before[1:]
