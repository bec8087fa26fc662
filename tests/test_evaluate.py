"Average precision against pycocotools and a plain VOC count; the report; the metric."
import contextlib
import csv
import io
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from makers import samples as noise_samples
from oracles import VOCAB, detections, noisy_oracle
from plain import plain_iou
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.boxes import cxcywh_to_xyxy
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import (
    FALSE_POSITIVE, HIT, IGNORED, MeanAP, Table, average_precision, coco_aps, evaluate,
    match_detections, mean_ap, overlaps, pr_curves, precision_recall, score_detections,
    scored_outcomes
)
from ssd_tutorial.predict import Detections, non_max_suppression
from ssd_tutorial.readers import Sample

ROOT = Path(__file__).parents[1]
THRESHOLDS = np.arange(50, 100, 5) / 100
# Few boxes and few scores: overlaps, equal IoUs, boxes of no area, ties
BOXES = [(0, 0, 4, 4), (1, 0, 5, 4), (0, 1, 4, 5), (0, 0, 4, 3), (0, 0, 4, 2), (2, 1, 6, 5),
         (9, 9, 12, 12), (2, 2, 2, 2), (0, 0, 4, 0)]
box = st.sampled_from(BOXES)
score = st.integers(1, 4).map(lambda k: k / 4)
easy = st.just(False)


def as_sample(objects):
    boxes = [b for b, *_ in objects]
    return Sample('x', boxes, [l for _, l, _ in objects], [d for *_, d in objects])


def pairs_of(labels='ab', difficult=easy):
    "Lists of (detections, sample)."
    rows = st.lists(st.tuples(box, st.sampled_from(labels), score), max_size=6)
    objects = st.lists(st.tuples(box, st.sampled_from(labels), difficult), max_size=5)
    pair = st.tuples(rows.map(detections), objects.map(as_sample))
    return st.lists(pair, min_size=1, max_size=5)


def coco_row(image, label, corners, **more):
    left, top, right, bottom = map(float, corners)
    return dict(image_id=image, category_id=VOCAB.index(label), area=1.,
                bbox=[left, top, right - left, bottom - top], **more)


def coco_side(rows, n_images):
    from pycocotools.coco import COCO
    side = COCO()
    side.dataset = dict(images=[dict(id=i) for i in range(n_images)],
                        categories=[dict(id=i) for i in range(1, 5)],
                        annotations=[dict(r, id=k) for k, r in enumerate(rows, 1)])
    side.createIndex()
    return side


def by_pycocotools(found, samples):
    "AP `(10,4)` by pycocotools alone, fed in double precision."
    from pycocotools.cocoeval import COCOeval
    truth = []
    given = []
    for i, (f, s) in enumerate(zip(found, samples)):
        truth += [coco_row(i, l, b, iscrowd=int(d), ignore=0)
                  for b, l, d in zip(s.boxes, s.labels, s.difficult)]
        given += [coco_row(i, l, b, score=float(v))
                  for b, l, v in zip(f.boxes, f.labels, f.scores)]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [coco_side(rows, len(samples)) for rows in (truth, given)]
        e = COCOeval(*sides, 'bbox')
        e.params.iouThrs = THRESHOLDS
        e.params.recThrs = np.arange(101) / 100
        e.params.areaRng = [[0, 1e10]]
        e.params.areaRngLbl = ['all']
        e.evaluate()
        e.accumulate()
    aps = e.eval['precision'][:, :, :, 0, -1].mean(1)
    return np.where(aps < 0, np.nan, aps)


def by_hand(found, samples, hit_thresh):
    """AP per class with COCO's rule; NaN for a class that is absent.

    Of two equal overlaps COCO takes the later object, so turn them round.
    """
    turned = [Sample(s.path, s.boxes[::-1], s.labels[::-1], s.difficult[::-1])
              for s in samples]
    rows = scored_outcomes(found, turned, hit_thresh=hit_thresh, retry=True)
    curves = pr_curves(rows, turned)
    return [curves[n].ap(101) if n in curves else np.nan for n in VOCAB.names[1:]]


@given(pairs_of())
def test_ap_by_hand_is_the_librarys_at_every_iou(pairs):
    found, samples = zip(*pairs)
    library = coco_aps(found, samples, VOCAB)
    alone = by_pycocotools(found, samples)
    assert np.allclose(library, alone, atol=1e-6, equal_nan=True)
    hand = [by_hand(found, samples, t) for t in THRESHOLDS]
    assert np.allclose(library, hand, atol=1e-6, equal_nan=True)
    # absent from the truth: no figure
    present = set().union(*(s.labels for s in samples))
    assert [n in present for n in VOCAB.names[1:]] == np.isfinite(library[0]).tolist()


@given(pairs_of('a'))
def test_one_class(pairs):
    found, samples = zip(*pairs)
    library = coco_aps(found, samples, Vocab('a'))[0, 0]
    assert np.allclose(library, by_hand(found, samples, .5)[0], atol=1e-6, equal_nan=True)


@given(pairs_of(difficult=st.booleans()))
def test_difficult_objects_are_crowds_for_the_library(pairs):
    found, samples = zip(*pairs)
    alone = by_pycocotools(found, samples)
    assert np.allclose(coco_aps(found, samples, VOCAB), alone, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize('n', [3, 7, 8])
def test_recall_levels_are_exact(n):
    """7 of 10 objects reach recall 0.7, though 70 times 0.01 is a little more; and 8 of 10
    reach 0.8, though in single precision it is."""
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(10)]
    truth = [Sample('x', boxes, ['a'] * 10)]
    found = [detections([(b, 'a', 1 - i / 16) for i, b in enumerate(boxes[:n])])]
    ap = (10 * n + 1) / 101
    assert coco_aps(found, truth, VOCAB)[0, 0] == pytest.approx(ap, abs=1e-6)
    curve = precision_recall([1] * n, 10)
    assert average_precision(*curve, 101) == pytest.approx(ap)
    assert average_precision(*curve, 11) == pytest.approx((n + 1) / 11)


def test_an_image_may_have_a_hundred_objects():
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(100)]
    truth = [Sample('x', boxes, ['a'] * 100)]
    found = [detections([(b, 'a', .5) for b in boxes])]
    assert coco_aps(found, truth, VOCAB)[:, 0] == pytest.approx([1] * 10, abs=1e-6)
    assert by_hand(found, truth, .5)[0] == 1


def test_recall_between_two_levels():
    curve = precision_recall([1] * 19, 20)
    assert average_precision(*curve, 11) == pytest.approx(10 / 11)


def one_iou(a, b):
    "IoU of two boxes; 0 where both have no area."
    a, b = [torch.tensor([[*map(float, x)]], dtype=torch.float64) for x in (a, b)]
    return plain_iou(a, b).nan_to_num().item()


def best_object(corners, name, sample):
    "Row of the object of a class that a box overlaps most, the first of equals, and the IoU."
    which = None
    best = -1
    for k, (o, l) in enumerate(zip(sample.boxes.tolist(), sample.labels)):
        if l == name and one_iou(corners, o) > best:
            best = one_iou(corners, o)
            which = k
    return which, best


def plain_curve(found, samples, name, total):
    "Recall and precision after each detection, as the development kit counts."
    rows = []
    for i, f in enumerate(found):
        every = zip(f.boxes.tolist(), f.labels, f.scores)
        rows += [(-float(v), i, b) for b, l, v in every if l == name]
    taken = set()
    n_wrong = 0
    curve = []
    for _, i, b in sorted(rows, key=lambda row: row[0]):
        which, best = best_object(b, name, samples[i])
        if best >= .5 and samples[i].difficult[which]: continue
        if best >= .5 and (i, which) not in taken: taken.add((i, which))
        else: n_wrong += 1
        curve.append((len(taken) / total, len(taken) / (len(taken) + n_wrong)))
    return curve


def plain_voc(found, samples, name, points):
    "The development kit's AP, object by object; None without objects."
    total = 0
    for s in samples: total += sum(l == name and not d for l, d in zip(s.labels, s.difficult))
    if not total: return None
    curve = plain_curve(found, samples, name, total)
    def best_from(recall): return max((p for r, p in curve if r >= recall), default=0)
    if points: return sum(best_from(k / (points - 1)) for k in range(points)) / points
    steps = sorted({r for r, _ in curve if r > 0})
    return sum((r - before) * best_from(r) for before, r in zip([0, *steps], steps))


@given(pairs_of(difficult=st.booleans()), st.sampled_from([None, 11]))
def test_voc_is_the_plain_count(pairs, points):
    found, samples = zip(*pairs)
    curves = pr_curves(scored_outcomes(found, samples), samples)
    plain = {n: plain_voc(found, samples, n, points) for n in 'abcd'}
    plain = {n: ap for n, ap in plain.items() if ap is not None}
    assert {n: c.ap(points) for n, c in curves.items()} == pytest.approx(plain)
    mean = np.mean(list(plain.values())) if plain else np.nan
    assert mean_ap(curves, points) == pytest.approx(mean, nan_ok=True)


@given(pairs_of(difficult=st.booleans()), st.booleans())
def test_each_object_is_taken_once(pairs, retry):
    for found, sample in pairs:
        outcome, index = match_detections(found, sample, retry=retry)
        assert outcome.shape == index.shape == (len(found),)
        assert (index[outcome != FALSE_POSITIVE] >= 0).all()
        hits = index[outcome == HIT].tolist()
        assert len(set(hits)) == len(hits)
        assert not any(sample.difficult[o] for o in hits)
        assert all(sample.difficult[o] for o in index[outcome == IGNORED])
        for d, o in enumerate(index):
            if o < 0: continue
            assert found.labels[d] == sample.labels[o]
            assert one_iou(found.boxes[d], sample.boxes[o]) >= .5 - 1e-6


@given(pairs_of())
def test_overlaps_are_the_plain_ones(pairs):
    for found, sample in pairs:
        iou, same = overlaps(found, sample)
        assert iou.shape == same.shape == (len(found), len(sample.labels))
        for d, row in enumerate(iou):
            want = [one_iou(found.boxes[d], b) for b in sample.boxes]
            assert row == pytest.approx(want, abs=1e-6)
            assert same[d].tolist() == [found.labels[d] == l for l in sample.labels]


@given(st.lists(st.booleans(), max_size=20), st.integers(0, 5),
       st.sampled_from([None, 11, 101]))
def test_ap_is_a_share_and_grows_with_each_hit(right, missed, points):
    def ap(right, n): return average_precision(*precision_recall(right, n), points)
    n = sum(right) + missed
    assert 0 <= ap(right, n) <= 1
    assert (ap(right, n) > 0) == any(right)
    if False in right:
        better = right.copy()
        better[right.index(False)] = True
        assert ap(better, n + 1) >= ap(right, n + 1)
    if right and all(right):
        share = sum(right) / max(n, 1)
        if points: share = np.mean(np.arange(points) * n <= sum(right) * (points - 1))
        assert ap(right, n) == pytest.approx(share)


def test_two_stars_nearly_upon_each_other():
    """Both detections overlap the left object most: VOC's rule loses the second, COCO's lets
    it take the right one."""
    sample = Sample('x', [[0, 0, 10, 10], [2, 0, 12, 10]], ['a', 'a'])
    found = detections([((0, 0, 10, 10), 'a', .9), ((0, 0, 11, 10), 'a', .8),
                        ((0, 0, 10, 9), 'a', .7)])
    assert [x.tolist() for x in match_detections(found, sample)] == [[1, 0, 0], [0, 0, 0]]
    again = match_detections(found, sample, retry=True)
    assert [x.tolist() for x in again] == [[1, 1, 0], [0, 1, -1]]
    # the best, not the first
    one = detections([((2, 0, 11, 10), 'a', .5)])
    assert match_detections(one, sample)[1].tolist() == [1]
    hard = replace(sample, difficult=[True, True])
    for retry in (False, True):
        assert match_detections(found, hard, retry=retry)[0].tolist() == [IGNORED] * 3


def test_the_order_of_detections_matters_for_equal_scores_only():
    def outcome(rows): return match_detections(detections(rows), sample)[0].tolist()
    sample = Sample('x', [[0, 0, 4, 4]], ['a'])
    rows = [((0, 0, 4, 4), 'a', .5), ((0, 0, 4, 3), 'a', .75)]
    assert outcome(rows) == [0, 1]
    assert outcome(rows[::-1]) == [1, 0]
    equal = [(b, l, .5) for b, l, _ in rows]
    assert outcome(equal) == outcome(equal[::-1]) == [1, 0]


def report_of(*pairs, vocab=VOCAB):
    return score_detections([f for f, _ in pairs], [s for _, s in pairs], vocab)


FOUND = ((0, 0, 4, 4), 'a', .75)
MISSED = Sample('x', [[0, 0, 4, 4]], ['b'])
NO_OBJECTS = Sample('x', [], [])
DIFFICULT = Sample('x', [[0, 0, 4, 4]], ['a'], [True])


def test_a_class_without_objects_is_left_out():
    found = detections([FOUND, ((0, 0, 4, 4), 'c', .9)])
    r = report_of((found, Sample('x', [[0, 0, 4, 4]], ['a'])))
    assert [r.map50, r.map, r.voc, r.voc07] == pytest.approx([1] * 4)
    assert [row[0] for row in r.rows] == ['a', 'b', 'c', 'd', 'all']
    lines = repr(r).splitlines()
    assert len({len(l) for l in lines[1:]}) == 1
    assert lines[4].split() == ['c', '0', '0', '-', '-', '-']
    assert 'nan' not in repr(r)


def test_a_class_that_was_not_predicted_counts_as_zero():
    r = report_of((detections([FOUND]), Sample('x', [[0, 0, 4, 4], [5, 5, 9, 9]], ['a', 'b'])))
    assert [r.map50, r.voc] == pytest.approx([.5, .5])
    assert r.rows[1][:4] == ('b', 1, 0, 0.)
    assert r.rows[-1][1:3] == (2, 1)


@pytest.mark.parametrize('found, sample, figure', [
    (detections([]), NO_OBJECTS, np.nan), (detections([FOUND]), NO_OBJECTS, np.nan),
    (detections([FOUND]), DIFFICULT, np.nan), (detections([]), DIFFICULT, np.nan),
    (detections([]), MISSED, 0), (detections([FOUND]), MISSED, 0),
    (detections([((2, 2, 2, 2), 'b', .9)]), MISSED, 0)])
def test_nothing_to_count(found, sample, figure):
    r = report_of((found, sample))
    figures = [r.map, r.map50, r.map75, r.voc, r.voc07]
    assert figures == pytest.approx([figure] * 5, nan_ok=True)
    assert ('-' in repr(r).splitlines()[-1]) == np.isnan(figure)
    assert 'nan' not in r._repr_html_()
    plt.close(r.plot())


def test_five_ways_to_count():
    "Two of four objects found, the second behind a false positive; one box is loose."
    truth = Sample('x', [[20 * i, 0, 20 * i + 10, 10] for i in range(4)], ['a'] * 4)
    r = report_of((detections([((0, 0, 10, 10), 'a', .75), ((0, 0, 10, 10), 'a', .5),
                               ((20, 0, 30, 7), 'a', .25)]), truth))
    want = [(1 + 2/3) / 4, (3 + 3 * 2/3) / 11, (26 + 25 * 2/3) / 101]
    assert [r.voc, r.voc07, r.map50] == pytest.approx(want)
    assert r.map75 == pytest.approx(26 / 101)
    assert r.map == pytest.approx((5 * r.map50 + 5 * 26 / 101) / 10)
    assert r.rows[0][1:3] == (4, 2)


def test_refusals():
    nothing = detections([])
    with pytest.raises(ValueError, match='no samples to evaluate'):
        score_detections([], [], VOCAB)
    with pytest.raises(ValueError, match='1 detections for 2 samples'):
        score_detections([nothing], [MISSED, MISSED], VOCAB)
    with pytest.raises(ValueError, match="unknown class 'b'"):
        report_of((nothing, MISSED), vocab=Vocab('a'))


def test_names_are_escaped_in_html():
    sample = Sample('x', [[0, 0, 4, 4]], ['<b>'])
    r = report_of((detections([]), sample), vocab=Vocab(['<b>']))
    assert '&lt;b&gt;' in r._repr_html_()
    assert '<b>' not in r._repr_html_()


def test_a_table_without_rows():
    class Empty(Table):
        title = 'none'
        columns = ['name', 'share']
        rows = []

    assert repr(Empty()).splitlines() == ['none', 'name  share']
    assert Empty()._repr_html_().count('<tr>') == 1


def test_curves_end_where_the_detections_end():
    found = detections([FOUND, ((0, 0, 4, 4), 'b', .5)])
    r = report_of((found, Sample('x', [[0, 0, 4, 4], [9, 9, 12, 12]], ['a', 'b'])))
    fig = r.plot(score_thresh=.6)
    lines = [l for l in fig.axes[0].lines if len(l.get_xdata()) > 1]
    assert [l.get_label() for l in lines] == ['a, area 1.00', 'b, area 0.00']
    assert lines[0].get_xdata().tolist() == [0, 1]
    # one dot: nothing of b scores 0.6
    assert len(fig.axes[0].lines) == 3
    plt.close(fig)


def test_evaluate_goes_through_the_images_in_groups(tmp_path):
    data = noise_samples(tmp_path, 70, objects=lambda i: i % 4)
    oracle = noisy_oracle()
    report = evaluate(oracle, data, score_thresh=.2)
    assert oracle.calls == [64, 6]
    assert len(report.detections) == 70
    assert all(d.image is None for d in report.detections)
    assert report.rows[-1][1] == sum(len(s.labels) for s in data)
    assert min(d.scores.min() for d in report.detections) >= .2
    found = oracle.predict([s.path for s in data], .2, across_thresh=1)
    want = score_detections(found, data, VOCAB)
    for name in ('map', 'map50', 'voc07'): assert getattr(report, name) == getattr(want, name)
    assert repr(report) == repr(want)


class Straight:
    "A coder whose activations are the boxes."
    def decode(self, acts, anchors): return acts


class Learn: pass


@pytest.mark.parametrize('sizes', [(6,), (2, 3, 1)])
def test_the_metric_counts_as_the_report_does(sizes):
    g = torch.Generator().manual_seed(0)
    n = sum(sizes)
    learn = Learn()
    boxes = cxcywh_to_xyxy(torch.rand(n, 12, 4, generator=g) * .3 + .3)
    scores = torch.randn(n, 12, 5, generator=g) * 3
    truth = boxes[:, :4] + torch.randn(n, 4, 4, generator=g) * .02
    labels = scores[:, :4, 1:].argmax(2) + 1
    # one image without objects, and one with two
    labels[0] = 0
    labels[1, 2:] = 0
    truth[labels == 0] = 0
    metric = MeanAP(make_anchors((2, 2, 2), coder=Straight()), score_thresh=.2)
    # the second epoch forgets the first
    for epoch_scores in (-scores, scores):
        metric.reset()
        parts = [t.split(list(sizes)) for t in (epoch_scores, boxes, truth, labels)]
        for s, b, t, l in zip(*parts):
            learn.pred = (s, b)
            learn.yb = (t, l)
            metric.accumulate(learn)
    kept = non_max_suppression(boxes.clamp(0, 1), scores[..., 1:].sigmoid(), .2, .5)
    found = []
    samples = []
    for (b, l, s), t, own in zip(kept, truth, labels):
        found.append(Detections(b.numpy(), [VOCAB[i] for i in l], s.numpy(), None))
        samples.append(Sample('x', t[own > 0], [VOCAB[i] for i in own if i]))
    assert metric.name == 'map50'
    assert 0 < metric.value < 1
    want = mean_ap(pr_curves(scored_outcomes(found, samples), samples), 101)
    assert metric.value == pytest.approx(want)


def test_the_measured_choices_are_complete():
    "What the chapter shows: each choice with the same seeds, and what it was measured on."
    file = ROOT/'benchmarks'/'choices.csv'
    if not file.is_file(): pytest.skip('a copy of tests/ without the repository')
    first, *lines = file.read_text().splitlines()
    assert first.startswith('# 1000 drawn images; Python 3')
    seeds = {}
    for row in csv.DictReader(lines):
        assert 0 < float(row['map']) < float(row['map50']) <= 1
        key = (row['epochs'], row['choice'], row['value'])
        seeds.setdefault(key, set()).add(row['seed'])
    short = {key: s for key, s in seeds.items() if key[0] == '4'}
    assert len(short) == 13
    assert len(set(map(frozenset, short.values()))) == 1
