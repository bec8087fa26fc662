"The figures of the docs site that move: docs/_static/play.js against the Python, and in a browser."
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import tensor
from torch.testing import assert_close
from torchvision.ops import batched_nms, nms

from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.boxes import box_iou
from ssd_tutorial.loss import FocalLoss
from ssd_tutorial.predict import suppress

ROOT = Path(__file__).parents[1]
PLAY = ROOT/'docs/_static/play.js'
CHAPTERS = dict(iou='00_boxes', anchors='06_anchors', gamma='07_loss', nms='09_predict')
if not PLAY.is_file(): pytest.skip('docs/_static/play.js is not here: these tests need the repository', allow_module_level=True)


# ---- the same arithmetic

@pytest.fixture(scope='module')
def js(request):
    "Calls a function of play.js, once for each list of arguments: in node, which is enough for the arithmetic, or else in Chromium."
    if node := shutil.which('node'):
        script = ("require(process.argv[1]); const [name, calls] = JSON.parse(require('fs').readFileSync(0)); "
                  "console.log(JSON.stringify(calls.map(c => play[name](...c))))")
        return lambda name, calls: json.loads(subprocess.run([node, '-e', script, str(PLAY)], input=json.dumps([name, calls]),
                                                             capture_output=True, text=True, check=True).stdout)
    page = request.getfixturevalue('browser').new_page()
    page.evaluate(PLAY.read_text())
    return lambda name, calls: page.evaluate('([name, calls]) => calls.map(c => play[name](...c))', [name, calls])


def crowd(n, seed, steps=None):
    "`(n,4)` boxes in 64 bits that overlap a lot; with `steps` on a coarse grid, so that many touch, are equal or have no area."
    g = torch.Generator().manual_seed(seed)
    b = torch.rand(n, 4, generator=g, dtype=torch.double) * .5
    if steps: b = (b * steps).round() / steps
    return torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1)


def test_iou(js):
    reversed_box = tensor([[.6, .6, .2, .2], [.5, .1, .2, .4]])
    boxes = torch.cat([crowd(20, 0), crowd(20, 1, 4), reversed_box])
    answers = js('iou', [[a, b] for a in boxes.tolist() for b in boxes.tolist()])
    assert_close(tensor(answers, dtype=torch.double).view(42, 42), box_iou(boxes, boxes), rtol=0, atol=1e-12)


SETS = [((4,), (1.,), ((1., 1.),)), ((4, 2, 1), (.7, 1., 1.3), ((1., 1.), (1., .5), (.5, 1.))), ((1, 3), (2.,), ((1.2, .83), (.83, 1.2)))]


def test_anchors(js):
    for settings, boxes in zip(SETS, js('anchorBoxes', SETS)): assert_close(tensor(boxes), make_anchors(*settings).xyxy)
    assert js('anchorBoxes', [[[], [1], [[1, 1]]], [[4], [], [[1, 1]]], [[4], [1], []]]) == [[], [], []]


@pytest.mark.parametrize('gamma', [0, .5, 1, 2, 5])
@pytest.mark.parametrize('alpha', [.25, .5, .9])
def test_focal(js, alpha, gamma):
    acts = torch.cat([torch.linspace(-9, 9, 37), tensor([-1000., 1000.])]).double()
    loss = lambda truth: torch.stack([FocalLoss(alpha, gamma)(torch.stack([x * 0, x])[None], tensor([truth])) * 2 for x in acts])
    yes = js('focal', [[p, gamma, alpha] for p in acts.sigmoid().tolist()])
    no = js('focal', [[p, gamma, 1 - alpha] for p in acts.neg().sigmoid().tolist()])
    for js_loss, truth in [(yes, 1), (no, 0)]: assert_close(tensor(js_loss, dtype=torch.double), loss(truth), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize('steps', [None, 8])
def test_nms_is_torchvisions(js, steps):
    calls = []
    for seed in range(30):
        scores = torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
        if steps: scores = (scores * steps).round() / steps
        calls += [[crowd(40, seed, steps).tolist(), scores.tolist(), t] for t in (0, .25, .5, .9, 1)]
    kept = [nms(tensor(b, dtype=torch.double), tensor(s, dtype=torch.double), t).tolist() for b, s, t in calls]
    assert js('nms', calls) == kept
    assert len({len(k) for k in kept}) > 5 and js('nms', [[[], [], .5]]) == [[]]


def test_suppress_is_the_chapters(js):
    for seed in range(10):
        boxes, scores = crowd(30, seed).float(), torch.rand(30, 3, generator=torch.Generator().manual_seed(seed))
        (b, l, s), = suppress(boxes[None], scores[None], .3, .4)
        rows = [(boxes[i].tolist(), j + 1, scores[i, j].item()) for i in range(30) for j in range(3)]
        kept, = js('suppress', [[*map(list, zip(*rows)), .3, .4]])
        assert [rows[k] for k in kept] == list(zip(b.tolist(), l.tolist(), s.tolist()))
        assert 3 < len(kept) < (scores >= .3).sum()


# ---- in a browser, with the figures as they stand in the chapters

def div(figure):
    "The figure's element, from a markdown cell or an output of its chapter."
    cells = json.loads((ROOT/f'nbs/{CHAPTERS[figure]}.ipynb').read_text())['cells']
    outputs = [o.get('data', {}).get('text/html', '') for c in cells for o in c.get('outputs', [])]
    texts = [''.join(t) for t in [c['source'] for c in cells if c['cell_type'] == 'markdown'] + outputs]
    found, = re.findall(rf'<div class="play" data-figure="{figure}".*?</div>', '\n'.join(texts), re.DOTALL)
    return found


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    for f in PLAY.parent.glob('play.*'): shutil.copy(f, folder)
    head = ('<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>play</title>'
            '<link rel="stylesheet" href="play.css"><script src="play.js"></script>')
    (folder/'index.html').write_text(head + '\n'.join(div(f) for f in CHAPTERS))
    return (folder/'index.html').as_uri()


@pytest.fixture(params=[1000, 390], ids=['desk', 'phone'])
def page(request, browser, site):
    "The page, wide or narrow. Nothing may be said on the console, and nothing fetched from elsewhere."
    page, said, asked = browser.new_page(viewport=dict(width=request.param, height=800), has_touch=request.param == 390), [], []
    page.on('console', lambda m: said.append(m.text)); page.on('pageerror', lambda e: said.append(str(e)))
    page.on('request', lambda r: asked.append(r.url))
    page.goto(site)
    yield page
    page.close()
    assert not said and all(url.startswith((site.rsplit('/', 1)[0], 'data:')) for url in asked) and len(asked) >= 3


def part(page, figure, css): return page.locator(f'.play[data-figure={figure}] {css}')
def read(page, figure): return part(page, figure, '.play-text').inner_text()
def number(page, figure, pattern): return float(re.search(pattern + r' ([\d.e-]+\d|\d)', read(page, figure))[1])
def box(page, figure, name): return [float(v) for v in re.search(rf'{name} \(([^)]*)\)', read(page, figure))[1].split(', ')]


def middle(locator):
    locator.scroll_into_view_if_needed()
    b = locator.bounding_box()
    return b['x'] + b['width'] / 2, b['y'] + b['height'] / 2


def drag(page, locator, dx, dy):
    x, y = middle(locator)
    page.mouse.move(x, y); page.mouse.down(); page.mouse.move(x + dx / 2, y + dy / 2); page.mouse.move(x + dx, y + dy); page.mouse.up()


def check_iou(page):
    "The text says what `box_iou` says of the boxes in the text, and the drawing has the same boxes."
    star, anchor = box(page, 'iou', 'star'), box(page, 'iou', 'anchor')
    want = box_iou(tensor([star]), tensor([anchor])).item()
    assert number(page, 'iou', 'IoU') == pytest.approx(want, abs=6e-4)
    assert number(page, 'iou', 'intersection') == pytest.approx(want * number(page, 'iou', 'union'), abs=1e-4)
    drawn = [float(part(page, 'iou', '.play-box.play-box0').get_attribute(k)) / 100 for k in ('x', 'y', 'width', 'height')]
    assert_close(tensor(drawn), tensor([*star[:2], star[2] - star[0], star[3] - star[1]]))
    return star, want


def test_iou_begins_as_in_the_chapter(page): assert check_iou(page) == ([.1, .2, .5, .6], pytest.approx(.12 / .29))


def test_iou_answers_to_the_mouse(page):
    star, first = check_iou(page)
    drag(page, part(page, 'iou', '.play-box.play-box0'), 30, 20)
    moved, second = check_iou(page)
    assert moved[0] > star[0] and moved[1] > star[1] and second < first
    assert_close(tensor(moved[2:]) - tensor(moved[:2]), tensor([.4, .4]))                        # moved, not stretched
    drag(page, part(page, 'iou', '.play-corner.play-box0'), -30, 15)
    stretched, third = check_iou(page)
    assert stretched[:2] == moved[:2] and stretched[2] < moved[2] and stretched[3] > moved[3] and third != second
    drag(page, part(page, 'iou', '.play-box.play-box0'), 3000, -3000)
    star, none = check_iou(page)
    assert (star[1], star[2], none) == (0, 1, 0)                                                # inside the picture


def test_iou_answers_to_the_keyboard(page):
    part(page, 'iou', '.play-box.play-box0').focus()
    for key in ['ArrowRight', 'ArrowRight', 'ArrowUp']: page.keyboard.press(key)
    assert check_iou(page)[0] == [.12, .19, .52, .59]
    for key in ['Shift+ArrowLeft', 'Shift+ArrowDown', 'Shift+ArrowDown']: page.keyboard.press(key)
    assert check_iou(page)[0] == [.12, .19, .51, .61]
    page.keyboard.press('Tab'); page.keyboard.press('ArrowDown')                                # the other box
    assert check_iou(page)[0] == [.12, .19, .51, .61] and box(page, 'iou', 'anchor') == [0, .01, .5, .51]
    assert page.evaluate('scrollY') == 0


@pytest.mark.parametrize('page', [390], indirect=True)
def test_iou_answers_to_a_finger(page):
    x, y = middle(part(page, 'iou', '.play-box.play-box0'))
    finger = page.context.new_cdp_session(page)
    for kind, d in [('Start', 0), ('Move', 15), ('Move', 30), ('Move', 45), ('End', None)]:   # up, where a page would scroll
        finger.send('Input.dispatchTouchEvent', dict(type=f'touch{kind}', touchPoints=[] if d is None else [dict(x=x + d, y=y - d)]))
    star, _ = check_iou(page)
    assert star[0] > .2 and star[1] < .1 and page.evaluate('scrollY') == 0


def test_anchors_are_counted(page):
    def check(grids, zooms, ratios):
        anchors = make_anchors(grids, zooms, ratios)
        best = box_iou(tensor([box(page, 'anchors', 'star')]), anchors.xyxy).max().item()
        assert number(page, 'anchors', '=') == len(anchors) == part(page, 'anchors', '.play-anchors rect:not(.play-best)').count()
        assert number(page, 'anchors', 'best IoU with the star') == pytest.approx(best, abs=6e-4)
        return best
    switch = lambda name: part(page, 'anchors', '').get_by_label(name, exact=True).click()
    check(*SETS[0])
    switch('2x2'); switch('1x1'); check((4, 2, 1), *SETS[0][1:])
    for more in ['0.7', '1.3', '1 : 0.5', '0.5 : 1']: switch(more)
    first = check(*SETS[1])
    drag(page, part(page, 'anchors', '.play-box'), 25, 25)
    assert check(*SETS[1]) != first
    for less in ['4x4', '2x2', '1x1']: switch(less)
    assert '= 0 anchors' in read(page, 'anchors') and 'no anchors' in read(page, 'anchors')


def slide(page, figure, label, value):
    "Move a slider with the arrow keys."
    slider = part(page, figure, '').get_by_label(label)
    slider.focus()
    key = 'ArrowRight' if value > float(slider.input_value()) else 'ArrowLeft'
    while abs(float(slider.input_value()) - value) > 1e-6: page.keyboard.press(key)


def test_gamma_fades_easy_answers(page):
    def check(alpha, gamma):
        loss = lambda p, truth: FocalLoss(alpha, gamma)(tensor([[0, torch.logit(tensor(p))]]), tensor([truth])).item() * 2
        easy, hard = loss(.05, 0), loss(.2, 1)
        share = 316 * easy / (316 * easy + 4 * hard)
        assert number(page, 'gamma', 'easy answer, right with 95 %: loss') == pytest.approx(easy, rel=6e-3)
        assert number(page, 'gamma', 'hard answer, right with 20 %: loss') == pytest.approx(hard, rel=6e-3)
        assert number(page, 'gamma', 'easy ones make up') == pytest.approx(100 * share, abs=.06)
        assert float(part(page, 'gamma', 'rect.play-no').get_attribute('width')) == pytest.approx(100 * share, abs=.01)
        return part(page, 'gamma', 'path.play-yes').last.get_attribute('d')
    curves = {check(.5, 1)}
    slide(page, 'gamma', 'gamma', 2); curves.add(check(.5, 2))
    slide(page, 'gamma', 'alpha', .25); curves.add(check(.25, 2))
    slide(page, 'gamma', 'gamma', 0); curves.add(check(.25, 0))
    assert len(curves) == 4


def test_nms_keeps_what_torchvision_keeps(page):
    rows = json.loads(part(page, 'nms', '').get_attribute('data-boxes'))
    boxes, scores = tensor([r[:4] for r in rows], dtype=torch.double), tensor([r[5] for r in rows], dtype=torch.double)
    names = sorted({r[4] for r in rows})
    classes = tensor([names.index(r[4]) for r in rows])

    def check(score_thresh, iou_thresh):
        ok = scores >= score_thresh
        kept = len(batched_nms(boxes[ok], scores[ok], classes[ok], iou_thresh))
        assert f'{ok.sum()} boxes score at least {score_thresh:.2f}; {kept} stay, {ok.sum() - kept} are suppressed' in read(page, 'nms')
        assert (part(page, 'nms', '.play-kept').count(), part(page, 'nms', '.play-faint').count()) == (kept, ok.sum() - kept)
        return kept
    kept = [check(.3, .5)]
    slide(page, 'nms', 'IoU threshold', .9); kept.append(check(.3, .9))
    slide(page, 'nms', 'score threshold', .15); kept.append(check(.15, .9))
    slide(page, 'nms', 'IoU threshold', .1); kept.append(check(.15, .1))
    slide(page, 'nms', 'score threshold', 1); kept.append(check(1, .1))
    assert kept[0] < kept[1] < kept[2] > kept[3] > kept[4] == 0


def test_everybody_can_use_them(page):
    assert page.evaluate('document.documentElement.scrollWidth') <= page.viewport_size['width']
    assert page.locator('.play').count() == page.locator('.play [aria-live=polite]').count() == 4
    for svg in page.locator('.play svg').all(): assert svg.get_attribute('aria-label') and svg.bounding_box()['width'] > 300
    for handle in page.locator('.play [tabindex]').all(): assert handle.get_attribute('role') and 'arrow' in handle.get_attribute('aria-label')
    assert page.evaluate('[...document.querySelectorAll(".play input")].every(i => i.labels.length == 1 && i.labels[0].textContent.trim())')
    small = [i for i in page.locator('.play text').all() if (i.bounding_box() or dict(height=99))['height'] < 8]
    assert not small
