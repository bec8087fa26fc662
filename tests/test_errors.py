"Reasons of false negatives and false positives, what mending gains, and the drawings."
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from makers import samples as noise_samples
from oracles import VOCAB, Oracle, detections, noisy_oracle
from ssd_tutorial.anchors import Anchors, match
from ssd_tutorial.boxes import box_iou, cxcywh_to_xyxy
from ssd_tutorial.errors import (
    FALSE_NEGATIVES, FALSE_POSITIVES, Errors, detection_status, find_errors, label_errors,
    miss_reasons, show_errors
)
from ssd_tutorial.evaluate import (
    HIT, evaluate, match_detections, mean_ap, one_name_each, pr_curves, scored_outcomes
)
from ssd_tutorial.readers import Sample, image_size

KINDS = [('false negative', k) for k in FALSE_NEGATIVES]
KINDS += [('false positive', k) for k in FALSE_POSITIVES]
STAR = torch.tensor([[.1, .2, .5, .6]])
CENTRES = [(.25, .25), (.25, .75), (.75, .25), (.75, .75), (.5, .5)]
FIVE = Anchors(torch.tensor([[x, y, .5, .5] for x, y in CENTRES]), torch.full((5, 2), .5))
FIT = torch.cat([STAR, FIVE.xyxy[1:]])


def scores_of(n_anchors, **given):
    "Scores `(A,4)`, 0 but for those given as row_class=score."
    scores = torch.zeros(n_anchors, 4)
    for k, v in given.items(): scores[int(k[1]), VOCAB.index(k[3]) - 1] = v
    return scores


@pytest.mark.parametrize('seed, score_thresh', [(0, .3), (1, .6), (2, .9), (3, 1.1)])
def test_every_object_and_every_detection_has_its_word(tmp_path, seed, score_thresh):
    data = noise_samples(tmp_path, 6, objects=lambda i: i)
    data[5] = replace(data[5], difficult=[True, False, False, True, False])
    oracle = noisy_oracle(seed)
    paths = [s.path for s in data]
    report, errors = find_errors(oracle, data, score_thresh)
    found = oracle.predict(paths, score_thresh)
    for e, s, f in zip(errors.images, data, found):
        assert e.sample is s
        assert len(e.object_status) == len(s.labels)
        assert set(e.object_status) <= {'found', 'difficult', *FALSE_NEGATIVES}
        assert set(e.detection_status) <= {'hit', 'ignored', *FALSE_POSITIVES}
        assert np.allclose(e.detections.boxes, f.boxes)
        assert e.detections.labels == f.labels
        hits = [status == 'hit' for status in e.detection_status]
        assert hits == (match_detections(f, s)[0] == HIT).tolist()
        assert e.object_status.count('found') == sum(hits)
        assert [status == 'difficult' for status in e.object_status] == s.difficult
    for f, g in zip(report.detections, oracle.predict(paths, .01, across_thresh=1)):
        assert np.array_equal(f.boxes, g.boxes)
        assert f.labels == g.labels
        assert np.array_equal(f.scores, g.scores)
        assert f.image is None
    mean = mean_ap(pr_curves(scored_outcomes(found, data), data), 101)
    assert errors.map50() == pytest.approx(mean)
    assert errors.map50(*KINDS) == pytest.approx(1)
    assert sum(n for _, n, _ in errors.rows) == sum(e.n_errors for e in errors.images)
    assert all(gain >= -1e-9 for *_, gain in errors.rows)


def test_each_image_is_looked_at_once(tmp_path):
    data = noise_samples(tmp_path, 70, objects=lambda i: i % 4)
    oracle = noisy_oracle()
    report, errors = find_errors(oracle, data)
    assert oracle.calls == [64, 6]
    assert len(errors.images) == 70
    assert repr(report) == repr(evaluate(oracle, data))


def test_the_report_goes_down_to_a_lower_threshold_of_the_errors(tmp_path):
    data = noise_samples(tmp_path, 2)
    report, errors = find_errors(noisy_oracle(), data, .001)
    least = min(d.scores.min() for d in report.detections)
    assert .001 <= least < .01
    shown = [len(one_name_each(d)) for d in report.detections]
    assert [len(e.detections) for e in errors.images] == shown


@pytest.mark.parametrize('boxes, scores, reason', [
    (FIT, dict(r0_a=.5), 'suppressed'), (FIT, dict(r0_a=.5, r0_b=.9), 'suppressed'),
    (FIT, dict(r0_b=.5, r0_a=.49), 'wrong class'), (FIT, dict(r0_a=.49), 'low score'),
    # boxes elsewhere tell nothing
    (FIT, dict(r1_a=.9, r3_b=.9), 'low score'),
    (FIVE.xyxy, dict(r0_a=.9, r0_b=.9), 'poor box'), (FIVE.xyxy, {}, 'poor box')])
def test_reasons_of_one_object(boxes, scores, reason):
    scores = scores_of(5, **scores)
    assert miss_reasons(boxes, scores, FIVE, STAR, torch.tensor([1])) == [reason]


def test_reasons_without_an_anchor():
    def reasons(boxes, scores, anchors, **kwargs):
        return miss_reasons(boxes, scores, anchors, STAR, torch.tensor([1]), **kwargs)
    rest = Anchors(FIVE.cxcywh[1:], FIVE.cell[1:])
    fit = torch.cat([STAR, rest.xyxy[1:]])
    assert reasons(rest.xyxy, scores_of(4), rest) == ['no anchor']
    # a good box that predicts nothing
    assert reasons(fit, scores_of(4), rest) == ['no anchor']
    assert reasons(fit, scores_of(4, r0_a=.9), rest) == ['suppressed']
    # 0.41 is not enough
    assert reasons(FIVE.xyxy, scores_of(5), FIVE, match_thresh=.45) == ['no anchor']


def test_two_objects_on_one_anchor():
    twins = STAR.repeat(2, 1)
    equal = torch.tensor([1, 1])
    assert miss_reasons(FIVE.xyxy, scores_of(5), FIVE, twins, equal) == ['not matched',
                                                                         'poor box']
    found = miss_reasons(FIT, scores_of(5, r0_a=.5), FIVE, twins, torch.tensor([1, 2]))
    assert found == ['suppressed', 'wrong class']
    none = torch.zeros(0, dtype=torch.int64)
    assert miss_reasons(FIT, scores_of(5), FIVE, STAR[:0], none) == []


def test_a_box_of_another_class_belongs_to_the_object_it_overlaps_more():
    near = STAR + torch.tensor([.1, 0, .1, 0])                # IoU 0.6 with the star
    truth = torch.cat([STAR, near])
    labels = torch.tensor([1, 2])
    scores = scores_of(5, r0_a=.9)
    assert box_iou(STAR, near) > .5
    assert miss_reasons(FIT, scores, FIVE, truth, labels)[1] != 'wrong class'
    moved = torch.cat([near, FIT[1:]])
    assert miss_reasons(moved, scores, FIVE, truth, labels)[1] == 'wrong class'


@given(st.integers(0, 10**6), st.integers(0, 6))
def test_reasons_mean_what_they_say(seed, n):
    g = torch.Generator().manual_seed(seed)
    oracle = noisy_oracle(seed, 20)
    anchors = oracle.anchors
    truth = cxcywh_to_xyxy(torch.rand(n, 4, generator=g) * .4 + .3)
    labels = torch.randint(1, 5, (n,), generator=g)
    reasons = miss_reasons(oracle.boxes, oracle.scores, anchors, truth, labels, .5)
    m = match(anchors, truth, labels)
    assert len(reasons) == n
    assert set(reasons) <= set(FALSE_NEGATIVES)
    for i, (t, l, why) in enumerate(zip(truth, labels, reasons)):
        good = box_iou(t[None], oracle.boxes)[0] >= .5
        seen = bool((good & (oracle.scores[:, l - 1] >= .5)).any())
        near = bool(box_iou(t[None], anchors.xyxy).max() >= .4)
        matched = bool(((m.labels > 0) & (m.index == i)).any())
        assert (why == 'suppressed') == seen
        if why == 'no anchor': assert not near
        if why == 'not matched': assert near and not matched
        if why in ('poor box', 'low score'): assert bool(good.any()) == (why == 'low score')


@pytest.mark.parametrize('row, kind', [
    (((0, 0, 4, 4), 'a', .9), 'hit'), (((0, 0, 4, 3), 'a', .5), 'duplicate'),
    (((10, 0, 14, 4), 'a', .9), 'confusion'), (((0, 0, 2, 3), 'a', .9), 'poor box'),
    (((0, 0, 2, 1), 'a', .9), 'poor box'), (((0, 0, 1, 1), 'a', .9), 'background'),
    (((20, 20, 24, 24), 'b', .9), 'background'), (((0, 0, 4, 4), 'c', .9), 'confusion'),
    (((20, 0, 24, 4), 'a', .9), 'ignored'), (((20, 0, 22, 3), 'a', .9), 'poor box'),
    (((2, 2, 2, 2), 'a', .9), 'background')])
def test_status_of_detections(row, kind):
    boxes = [[0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4]]
    truth = Sample('x', boxes, ['a', 'b', 'a'], [False, False, True])
    first = ((0, 0, 4, 4), 'a', .8)
    assert detection_status(detections([first, row]), truth)[1] == kind


def test_mending_gains_what_one_can_work_out(tmp_path):
    "Two objects; one found behind a false positive, one missed: AP of hits (0, 1) of 2."
    s = noise_samples(tmp_path, 1, objects=lambda i: 2)[0]
    s = replace(s, labels=['a', 'a'], boxes=[[0, 0, 10, 10], [30, 30, 40, 40]])
    anchors = Anchors(torch.tensor([[.5, .5, .2, .2]]).repeat(2, 1), torch.ones(2, 2))
    w, h = image_size(s.path)
    boxes = torch.tensor([[50 / w, 0, 1, 10 / h], [0, 0, 10 / w, 10 / h]])
    _, errors = find_errors(Oracle(boxes, scores_of(2, r0_a=.9, r1_a=.5), anchors), [s])
    assert errors.images[0].detection_status == ['background', 'hit']
    assert errors.images[0].object_status == ['found', 'no anchor']
    start = 51 * .5 / 101
    assert errors.map50() == pytest.approx(start)
    rows = {name: (n, gain) for name, n, gain in errors.rows if n}
    found = pytest.approx((51 + 50 * 2/3) / 101 - start)
    gone = pytest.approx(51 / 101 - start)
    assert rows == {'false negative: no anchor': (1, found),
                    'false positive: background': (1, gone)}


def test_difficult_objects_are_no_errors():
    sample = Sample('x', [[0, 0, 4, 4], [10, 0, 14, 4]], ['a', 'a'], [True, False])
    e = label_errors(sample, detections([((0, 0, 4, 4), 'a', .9)]), ['low score', 'poor box'])
    assert e.object_status == ['difficult', 'poor box']
    assert e.detection_status == ['ignored']
    assert e.n_errors == 1


def test_a_box_in_pixels_is_compared_in_shares_of_its_image(tmp_path):
    """The same object, 0.41 from an anchor, in images of two shapes: found over the
    threshold, missed below it."""
    for k, size in enumerate([(200, 50), (30, 90)]):
        Image.new('RGB', size).save(tmp_path/f'{k}.png')
        s = Sample(tmp_path/f'{k}.png', STAR.numpy() * [*size, *size], ['a'])
        for score, status in [(.5, 'found'), (.2, 'low score')]:
            _, errors = find_errors(Oracle(FIT, scores_of(5, r0_a=score), FIVE), [s])
            assert errors.images[0].object_status == [status]
            assert errors.images[0].detection_status == ['hit'] * (score > .3)


def errors_of(tmp_path, score_thresh=.84):
    data = noise_samples(tmp_path, 5, objects=lambda i: 2 * i)
    return find_errors(noisy_oracle(), data, score_thresh)[1]


def words(e):
    "What the list beside an image has to say."
    objects = zip(e.sample.labels, e.object_status)
    lines = [f'{name}: {status}' for name, status in objects if status in FALSE_NEGATIVES]
    d = e.detections
    for name, score, status in zip(d.labels, d.scores, e.detection_status):
        lines.append(f'{name} {score:.2f}' + f' {status}' * (status != 'hit'))
    return lines


def texts(ax):
    return [t.get_text() for t in ax.texts]


def test_drawings_of_errors(tmp_path):
    errors = errors_of(tmp_path)
    worst = sorted(errors.images, key=lambda e: -e.n_errors)
    assert worst[0].n_errors > errors.images[0].n_errors         # the first is not the worst
    fig = errors.show(n=2)
    assert isinstance(fig, plt.Figure)
    for (image, beside), e in zip([fig.axes[:2], fig.axes[2:]], worst):
        n = len(words(e))
        assert n == len(image.patches)
        numbers = [str(i) for i in range(1, n + 1)]
        assert texts(image) == numbers
        assert [t for t in texts(beside) if t not in numbers] == words(e)
        assert [t for t in texts(beside) if t in numbers] == numbers
        assert f'{e.sample.path.name}, errors: {e.n_errors}' == image.get_title()
    in_order = show_errors(errors, n=9, worst=False, ncols=3)
    images = in_order.axes[::2]
    assert [len(a.patches) for a in images] == [*(len(words(e)) for e in errors.images), 0]
    in_order.savefig(tmp_path/'errors.png')
    assert Image.open(tmp_path/'errors.png').width > 300
    assert Errors([], .3).show().axes
    plt.close('all')


@pytest.mark.parametrize('crowd', [[50, 50, 150, 150], [90, 90, 95, 95]])
def test_numbers_hide_no_other_number(tmp_path, crowd):
    "Twelve objects in one place, large or small, and one elsewhere."
    Image.new('RGB', (200, 200)).save(tmp_path/'0.png')
    sample = Sample(tmp_path/'0.png', [crowd] * 12 + [[195, 195, 200, 200]], ['a'] * 13)
    e = label_errors(sample, detections([]), ['low score'] * 13)
    fig = Errors([e], .3).show()
    fig.canvas.draw()
    ax = fig.axes[0]
    extents = [t.get_window_extent() for t in ax.texts]
    for i, a in enumerate(extents):
        assert ax.get_window_extent().overlaps(a)
        assert not any(a.overlaps(b) for b in extents[:i])
    # thin frames where many lie on each other
    widths = [p.get_linewidth() for p in ax.patches]
    assert len(set(widths[:12])) == 1
    assert widths[0] < widths[12]
    plt.close(fig)


def test_a_list_that_is_too_long_says_so(tmp_path):
    Image.new('RGB', (200, 200)).save(tmp_path/'0.png')
    sample = Sample(tmp_path/'0.png', [[50, 50, 150, 150]] * 99, ['a'] * 99)
    e = label_errors(sample, detections([]), ['low score'] * 99)
    fig = Errors([e], .3).show()
    *lines, last = [t for t in texts(fig.axes[1]) if not t.isdigit()]
    assert set(lines) == {'a: low score'}
    assert last == f'and {99 - len(lines)} more'
    plt.close(fig)


def pixels_of_text(fig, page=772):
    "Height of the letters, with the figure as wide as a page."
    sizes = []
    for ax in fig.axes: sizes += [t.get_size() for t in ax.texts]
    return min(sizes) / 72 * page / fig.get_figwidth()


def test_text_can_be_read_on_a_page(tmp_path):
    fig = errors_of(tmp_path).show()
    assert pixels_of_text(fig) >= 9
    plt.close(fig)


@pytest.mark.parametrize('size', [(10, 3000), (3000, 10)])
def test_drawings_of_errors_keep_a_bounded_size(tmp_path, size):
    Image.new('RGB', size).save(tmp_path/'0.png')
    sample = Sample(tmp_path/'0.png', STAR.numpy() * [*size, *size], ['a'])
    fig = find_errors(Oracle(FIT, scores_of(5, r0_a=.5), FIVE), [sample])[1].show()
    assert 1 < fig.get_figheight() < 20
    fig.savefig(tmp_path/'errors.png')
    plt.close(fig)
