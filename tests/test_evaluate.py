"Average precision against pycocotools and a plain VOC count; the reasons of errors; the report."
import contextlib
import io
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from makers import samples as noise_samples
from ssd_tutorial.anchors import Anchors, make_anchors, match
from ssd_tutorial.boxes import box_iou, cxcywh_to_xyxy
from ssd_tutorial.readers import Sample, image_size
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import (
    MeanAP, average_precision, coco_aps, evaluate, match_detections, mean_ap, pr_curves,
    precision_recall, score_detections, scored_outcomes
)
from ssd_tutorial.errors import (
    FALSE_POSITIVES, FALSE_NEGATIVES, Errors, detection_status, find_errors, miss_reasons,
    show_errors
)
from ssd_tutorial.predict import Detections, non_max_suppression

VOCAB = Vocab('abcd')
THRESHOLDS = np.arange(50, 100, 5) / 100
# Few boxes and few scores: overlaps, equal IoUs, boxes of no area, ties
box = st.sampled_from([(0, 0, 4, 4), (1, 0, 5, 4), (0, 1, 4, 5), (0, 0, 4, 3), (0, 0, 4, 2), (2, 1, 6, 5), (9, 9, 12, 12),
                       (2, 2, 2, 2), (0, 0, 4, 0)])
score = st.integers(1, 4).map(lambda k: k / 4)
easy = st.just(False)


def detections(rows):
    boxes, labels, scores = zip(*rows) if rows else ([], [], [])
    return Detections(np.array(boxes, dtype=np.float32).reshape(-1, 4), list(labels), np.array(scores, dtype=np.float32), None)


def pictures(labels='ab', difficult=easy):
    "Lists of (detections, sample)."
    dets = st.lists(st.tuples(box, st.sampled_from(labels), score), max_size=6).map(detections)
    objects = st.lists(st.tuples(box, st.sampled_from(labels), difficult), max_size=5)
    truth = objects.map(lambda o: Sample('x', [b for b, *_ in o], [l for _, l, _ in o], [d for *_, d in o]))
    return st.lists(st.tuples(dets, truth), min_size=1, max_size=5)


def by_pycocotools(found, samples):
    "AP `(10,4)` by pycocotools alone, fed in double precision."
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    xywh = lambda b: [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])]
    truth = [dict(image_id=i, category_id=VOCAB.index(l), bbox=xywh(b), area=1., iscrowd=int(d), ignore=0)
             for i, s in enumerate(samples) for b, l, d in zip(s.boxes, s.labels, s.difficult)]
    given = [dict(image_id=i, category_id=VOCAB.index(l), bbox=xywh(b), area=1., score=float(v))
             for i, f in enumerate(found) for b, l, v in zip(f.boxes, f.labels, f.scores)]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for rows in (truth, given):
            sides.append(COCO())
            sides[-1].dataset = dict(images=[dict(id=i) for i in range(len(samples))], categories=[dict(id=i) for i in range(1, 5)],
                                     annotations=[dict(r, id=k) for k, r in enumerate(rows, 1)])
            sides[-1].createIndex()
        e = COCOeval(*sides, 'bbox')
        e.params.iouThrs, e.params.recThrs = THRESHOLDS, np.arange(101) / 100
        e.params.areaRng, e.params.areaRngLbl = [[0, 1e10]], ['all']
        e.evaluate(); e.accumulate()
    aps = e.eval['precision'][:, :, :, 0, -1].mean(1)
    return np.where(aps < 0, np.nan, aps)


def by_hand(found, samples, nms_thresh):
    "AP per class with COCO's rule; NaN for a class that is absent. Of two equal overlaps COCO takes the later object, so turn them round."
    turned = [Sample(s.path, s.boxes[::-1], s.labels[::-1], s.difficult[::-1]) for s in samples]
    curves = pr_curves(scored_outcomes(found, turned, nms_thresh=nms_thresh, retry=True), turned)
    return [curves[n].ap(101) if n in curves else np.nan for n in VOCAB.names[1:]]


@given(pictures())
def test_ap_by_hand_is_the_librarys_at_every_iou(pairs):
    found, samples = zip(*pairs)
    library = coco_aps(found, samples, VOCAB)
    assert np.allclose(library, by_pycocotools(found, samples), atol=1e-6, equal_nan=True)
    assert np.allclose(library, [by_hand(found, samples, t) for t in THRESHOLDS], atol=1e-6, equal_nan=True)
    present = {l for s in samples for l in s.labels}
    assert [n in present for n in VOCAB.names[1:]] == np.isfinite(library[0]).tolist()      # absent from the truth: no figure


@given(pictures('a'))
def test_one_class(pairs):
    found, samples = zip(*pairs)
    one = Vocab('a')
    assert np.allclose(coco_aps(found, samples, one)[0, 0], by_hand(found, samples, .5)[0], atol=1e-6, equal_nan=True)


@given(pictures(difficult=st.booleans()))
def test_difficult_objects_are_crowds_for_the_library(pairs):
    found, samples = zip(*pairs)
    assert np.allclose(coco_aps(found, samples, VOCAB), by_pycocotools(found, samples), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize('n', [3, 7, 8])
def test_recall_levels_are_exact(n):
    "7 of 10 objects reach recall 0.7, though 70 times 0.01 is a little more; and 8 of 10 reach 0.8, though in single precision it is."
    truth = [Sample('x', [[20 * i, 0, 20 * i + 10, 10] for i in range(10)], ['a'] * 10)]
    found = [detections([(b, 'a', 1 - i / 16) for i, b in enumerate(truth[0].boxes[:n])])]
    assert coco_aps(found, truth, VOCAB)[0, 0] == pytest.approx((10 * n + 1) / 101, abs=1e-6)
    assert average_precision(*precision_recall([1] * n, 10), 101) == pytest.approx((10 * n + 1) / 101)
    assert average_precision(*precision_recall([1] * n, 10), 11) == pytest.approx((n + 1) / 11)


def test_a_picture_may_have_a_hundred_objects():
    truth = [Sample('x', [[20 * i, 0, 20 * i + 10, 10] for i in range(100)], ['a'] * 100)]
    found = [detections([(b, 'a', .5) for b in truth[0].boxes])]
    assert coco_aps(found, truth, VOCAB)[:, 0] == pytest.approx([1] * 10, abs=1e-6) and by_hand(found, truth, .5)[0] == 1


def test_recall_between_two_levels():
    assert average_precision(*precision_recall([1] * 19, 20), 11) == pytest.approx(10 / 11)


def plain_iou(a, b):
    w, h = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union else 0.


def plain_voc(found, samples, name, points):
    "The development kit's count, object by object; None without objects."
    dets = [(float(-v), i, b) for i, f in enumerate(found) for b, l, v in zip(f.boxes.tolist(), f.labels, f.scores) if l == name]
    total = sum(l == name and not d for s in samples for l, d in zip(s.labels, s.difficult))
    if not total: return None
    taken, tp, fp, curve = set(), 0, 0, []
    for _, i, b in sorted(dets, key=lambda d: d[0]):
        best, which = -1, None
        for k, (o, l) in enumerate(zip(samples[i].boxes.tolist(), samples[i].labels)):
            if l == name and plain_iou(b, o) > best: best, which = plain_iou(b, o), k
        if best >= .5 and samples[i].difficult[which]: continue
        if best >= .5 and (i, which) not in taken: tp += 1; taken.add((i, which))
        else: fp += 1
        curve.append((tp / total, tp / (tp + fp)))
    if points: return sum(max([p for r, p in curve if r >= k / (points - 1)], default=0) for k in range(points)) / points
    steps = sorted({r for r, _ in curve if r > 0})
    return sum((r - before) * max(p for q, p in curve if q >= r) for before, r in zip([0, *steps], steps))


@given(pictures(difficult=st.booleans()), st.sampled_from([None, 11]))
def test_voc_is_the_plain_count(pairs, points):
    found, samples = zip(*pairs)
    curves = pr_curves(scored_outcomes(found, samples), samples)
    plain = {n: ap for n in 'abcd' if (ap := plain_voc(found, samples, n, points)) is not None}
    assert {n: c.ap(points) for n, c in curves.items()} == pytest.approx(plain)
    assert mean_ap(curves, points) == pytest.approx(np.mean(list(plain.values())) if plain else np.nan, nan_ok=True)


@given(pictures(difficult=st.booleans()), st.booleans())
def test_each_object_is_taken_once(pairs, retry):
    for found, sample in pairs:
        verdict, index = match_detections(found, sample, retry=retry)
        assert verdict.shape == index.shape == (len(found),) and (index[verdict != 0] >= 0).all()
        hits = index[verdict == 1].tolist()
        assert len(set(hits)) == len(hits) and not any(sample.difficult[o] for o in hits)
        assert all(sample.difficult[o] for o in index[verdict == -1])
        for d, o in enumerate(index):
            if o >= 0: assert found.labels[d] == sample.labels[o] and plain_iou(found.boxes[d], sample.boxes[o]) >= .5 - 1e-6


@given(st.lists(st.booleans(), max_size=20), st.integers(0, 5), st.sampled_from([None, 11, 101]))
def test_ap_is_a_share_and_grows_with_each_hit(right, missed, points):
    n = sum(right) + missed
    ap = average_precision(*precision_recall(right, n), points)
    assert 0 <= ap <= 1 and (ap > 0) == any(right)
    if False in right:
        better = right.copy(); better[right.index(False)] = True
        assert average_precision(*precision_recall(better, n + 1), points) >= average_precision(*precision_recall(right, n + 1), points)
    share = sum(right) / max(n, 1) if points is None else np.mean(np.arange(points) * n <= sum(right) * (points - 1))
    if right and all(right): assert ap == pytest.approx(share)


def test_two_stars_nearly_upon_each_other():
    "Both detections prefer the left object: VOC's rule loses the second, COCO's lets it take the right one."
    sample = Sample('x', [[0, 0, 10, 10], [2, 0, 12, 10]], ['a', 'a'])
    found = detections([((0, 0, 10, 10), 'a', .9), ((0, 0, 11, 10), 'a', .8), ((0, 0, 10, 9), 'a', .7)])
    assert [x.tolist() for x in match_detections(found, sample)] == [[1, 0, 0], [0, 0, 0]]
    assert [x.tolist() for x in match_detections(found, sample, retry=True)] == [[1, 1, 0], [0, 1, -1]]
    assert match_detections(detections([((2, 0, 11, 10), 'a', .5)]), sample)[1].tolist() == [1]                 # the best, not the first
    hard = replace(sample, difficult=[True, True])
    assert match_detections(found, hard)[0].tolist() == match_detections(found, hard, retry=True)[0].tolist() == [-1, -1, -1]


def test_the_order_of_detections_matters_for_equal_scores_only():
    sample = Sample('x', [[0, 0, 4, 4]], ['a'])
    rows = [((0, 0, 4, 4), 'a', .5), ((0, 0, 4, 3), 'a', .75)]
    assert match_detections(detections(rows), sample)[0].tolist() == [0, 1] and match_detections(detections(rows[::-1]), sample)[0].tolist() == [1, 0]
    equal = [(b, l, .5) for b, l, _ in rows]
    assert match_detections(detections(equal), sample)[0].tolist() == match_detections(detections(equal[::-1]), sample)[0].tolist() == [1, 0]


def report_of(*pairs, vocab=VOCAB): return score_detections([f for f, _ in pairs], [s for _, s in pairs], vocab)


HIT, MISS = ((0, 0, 4, 4), 'a', .75), Sample('x', [[0, 0, 4, 4]], ['b'])


def test_a_class_without_objects_is_left_out():
    r = report_of((detections([HIT, ((0, 0, 4, 4), 'c', .9)]), Sample('x', [[0, 0, 4, 4]], ['a'])))
    assert [r.map50, r.map, r.voc, r.voc07] == pytest.approx([1] * 4) and [row[0] for row in r.rows] == ['a', 'b', 'c', 'd', 'all']
    lines = repr(r).splitlines()
    assert len({len(l) for l in lines[1:]}) == 1 and lines[4].split() == ['c', '0', '0', '-', '-', '-'] and 'nan' not in repr(r)


def test_a_class_that_nobody_looked_for_counts_as_zero():
    r = report_of((detections([HIT]), Sample('x', [[0, 0, 4, 4], [5, 5, 9, 9]], ['a', 'b'])))
    assert [r.map50, r.voc] == pytest.approx([.5, .5]) and r.rows[1][:4] == ('b', 1, 0, 0.) and r.rows[-1][1:3] == (2, 1)


@pytest.mark.parametrize('found, sample, figure', [
    (detections([]), Sample('x', [], []), np.nan), (detections([HIT]), Sample('x', [], []), np.nan),
    (detections([HIT]), Sample('x', [[0, 0, 4, 4]], ['a'], [True]), np.nan), (detections([]), Sample('x', [[0, 0, 4, 4]], ['a'], [True]), np.nan),
    (detections([]), MISS, 0), (detections([HIT]), MISS, 0), (detections([((2, 2, 2, 2), 'b', .9)]), MISS, 0)])
def test_nothing_to_count(found, sample, figure):
    r = report_of((found, sample))
    assert [r.map, r.map50, r.map75, r.voc, r.voc07] == pytest.approx([figure] * 5, nan_ok=True)
    assert ('-' in repr(r).splitlines()[-1]) == np.isnan(figure) and 'nan' not in r._repr_html_()
    plt.close(r.plot())


def test_five_ways_to_count():
    "Two of four objects found, the second behind a false alarm; one box is loose."
    truth = Sample('x', [[20 * i, 0, 20 * i + 10, 10] for i in range(4)], ['a'] * 4)
    r = report_of((detections([((0, 0, 10, 10), 'a', .75), ((0, 0, 10, 10), 'a', .5), ((20, 0, 30, 7), 'a', .25)]), truth))
    assert [r.voc, r.voc07, r.map50] == pytest.approx([(1 + 2/3) / 4, (3 + 3 * 2/3) / 11, (26 + 25 * 2/3) / 101])
    assert [r.map75, r.map] == pytest.approx([26 / 101, (5 * r.map50 + 5 * 26 / 101) / 10]) and r.rows[0][1:3] == (4, 2)


def test_refusals():
    with pytest.raises(ValueError, match='no samples to evaluate'): score_detections([], [], VOCAB)
    with pytest.raises(ValueError, match='1 detections for 2 samples'): score_detections([detections([])], [MISS, MISS], VOCAB)
    with pytest.raises(ValueError, match="unknown class 'b'"): report_of((detections([]), MISS), vocab=Vocab('a'))


def test_names_are_escaped_in_html():
    r = report_of((detections([]), Sample('x', [[0, 0, 4, 4]], ['<b>'])), vocab=Vocab(['<b>']))
    assert '&lt;b&gt;' in r._repr_html_() and '<b>' not in r._repr_html_()


def test_curves_end_where_the_detections_end():
    r = report_of((detections([HIT, ((0, 0, 4, 4), 'b', .5)]), Sample('x', [[0, 0, 4, 4], [9, 9, 12, 12]], ['a', 'b'])))
    fig = r.plot(score_thresh=.6)
    lines = [l for l in fig.axes[0].lines if len(l.get_xdata()) > 1]
    assert [l.get_label() for l in lines] == ['a, AP50 1.00', 'b, AP50 0.00'] and lines[0].get_xdata().tolist() == [0, 1]
    assert len(fig.axes[0].lines) == 3                                 # one dot: nothing of b scores 0.6
    plt.close(fig)


class Oracle:
    "Answers with what it was given: raw boxes in [0,1] and scores of every anchor, the same for each picture."
    vocab = VOCAB
    def __init__(self, boxes, scores, anchors): self.boxes, self.scores, self.anchors, self.calls = boxes, scores, anchors, []

    def decode_predictions(self, paths):
        self.calls.append(len(paths))
        return self.boxes.expand(len(paths), -1, -1), self.scores.expand(len(paths), -1, -1), [Image.open(p) for p in paths]

    def predict(self, paths, score_thresh=.3, nms_thresh=.5):
        boxes, scores, images = self.decode_predictions(paths)
        scale = [torch.tensor([*im.size] * 2) for im in images]
        return [Detections((b * k).numpy(), [self.vocab[i] for i in l.tolist()], s.numpy(), im)
                for (b, l, s), k, im in zip(non_max_suppression(boxes, scores, score_thresh, nms_thresh), scale, images)]


def noisy_oracle(seed=0, n=40):
    g = torch.Generator().manual_seed(seed)
    cxcywh = torch.cat([torch.rand(n, 2, generator=g) * .6 + .2, torch.rand(n, 2, generator=g) * .4 + .3], 1)
    anchors = Anchors(cxcywh, torch.full((n, 2), .1))
    boxes = (anchors.xyxy + torch.randn(n, 4, generator=g) * .03).clamp(0, 1)
    return Oracle(boxes, torch.rand(n, 4, generator=g) ** 2, anchors)


def test_evaluate_goes_through_the_pictures_in_groups(tmp_path):
    data = noise_samples(tmp_path, 70, objects=lambda i: i % 4)
    oracle = noisy_oracle()
    report = evaluate(oracle, data, score_thresh=.2)
    assert oracle.calls == [64, 6] and len(report.found) == 70 and all(f.image is None for f in report.found)
    assert report.rows[-1][1] == sum(len(s.labels) for s in data) and min(f.scores.min() for f in report.found) >= .2
    want = score_detections(oracle.predict([s.path for s in data], .2), data, VOCAB)
    assert (report.map, report.map50, report.voc07) == (want.map, want.map50, want.voc07) and repr(report) == repr(want)


@pytest.mark.parametrize('seed, score_thresh', [(0, .3), (1, .6), (2, .9), (3, 1.1)])
def test_every_object_and_every_detection_has_its_word(tmp_path, seed, score_thresh):
    data = noise_samples(tmp_path, 6, objects=lambda i: i)
    data[5] = replace(data[5], difficult=[True, False, False, True, False])
    oracle = noisy_oracle(seed)
    errors, found = find_errors(oracle, data, score_thresh), oracle.predict([s.path for s in data], score_thresh)
    for p, s, f in zip(errors.pictures, data, found):
        assert p.sample is s and len(p.fates) == len(s.labels) and set(p.fates) <= {'found', 'difficult', *FALSE_NEGATIVES}
        assert np.allclose(p.found.boxes, f.boxes) and p.found.labels == f.labels and set(p.kinds) <= {'hit', 'ignored', *FALSE_POSITIVES}
        assert [k == 'hit' for k in p.kinds] == (match_detections(f, s)[0] == 1).tolist()
        assert p.fates.count('found') == p.kinds.count('hit') and [x == 'difficult' for x in p.fates] == s.difficult
    for f, g in zip(errors.found, oracle.predict([s.path for s in data], .01)):
        assert np.array_equal(f.boxes, g.boxes) and f.labels == g.labels and np.array_equal(f.scores, g.scores) and f.image is None
    mean = mean_ap(pr_curves(scored_outcomes(found, data), data), 101)
    every = [('missed', k) for k in FALSE_NEGATIVES] + [('false alarm', k) for k in FALSE_POSITIVES]
    assert errors.map50() == pytest.approx(mean) and errors.map50(*every) == pytest.approx(1)
    assert sum(n for _, n, _ in errors.rows) == sum(p.errors for p in errors.pictures) and all(g >= -1e-9 for *_, g in errors.rows)


def scores_of(n_anchors, **given):
    "Scores `(A,4)`, 0 but for those given as row_class=score."
    scores = torch.zeros(n_anchors, 4)
    for k, v in given.items(): scores[int(k[1]), VOCAB.index(k[3]) - 1] = v
    return scores


STAR = torch.tensor([[.1, .2, .5, .6]])
FIVE = Anchors(torch.tensor([[x, y, .5, .5] for x, y in [(.25, .25), (.25, .75), (.75, .25), (.75, .75), (.5, .5)]]), torch.full((5, 2), .5))
FIT = torch.cat([STAR, FIVE.xyxy[1:]])


@pytest.mark.parametrize('boxes, scores, reason', [
    (FIT, dict(r0_a=.3), 'suppressed'), (FIT, dict(r0_a=.3, r0_b=.9), 'suppressed'), (FIT, dict(r0_b=.3, r0_a=.29), 'wrong class'),
    (FIT, dict(r0_a=.29), 'low score'), (FIT, dict(r1_a=.9, r3_b=.9), 'low score'),         # boxes elsewhere tell nothing
    (FIVE.xyxy, dict(r0_a=.9, r0_b=.9), 'poor box'), (FIVE.xyxy, {}, 'poor box')])
def test_reasons_of_one_object(boxes, scores, reason):
    assert miss_reasons(boxes, scores_of(5, **scores), FIVE, STAR, torch.tensor([1])) == [reason]


def test_reasons_without_an_anchor():
    rest = Anchors(FIVE.cxcywh[1:], FIVE.cell[1:])
    said = dict(truth=STAR, labels=torch.tensor([1]))
    assert miss_reasons(rest.xyxy, scores_of(4), rest, **said) == ['no anchor']
    assert miss_reasons(torch.cat([STAR, rest.xyxy[1:]]), scores_of(4), rest, **said) == ['no anchor']       # a good box without a word
    assert miss_reasons(torch.cat([STAR, rest.xyxy[1:]]), scores_of(4, r0_a=.9), rest, **said) == ['suppressed']
    assert miss_reasons(FIVE.xyxy, scores_of(5), FIVE, **said, match_thresh=.45) == ['no anchor']            # 0.41 is not enough


def test_two_objects_on_one_anchor():
    twins = STAR.repeat(2, 1)
    assert miss_reasons(FIVE.xyxy, scores_of(5), FIVE, twins, torch.tensor([1, 1])) == ['not matched', 'poor box']
    assert miss_reasons(FIT, scores_of(5, r0_a=.5), FIVE, twins, torch.tensor([1, 2])) == ['suppressed', 'wrong class']
    assert miss_reasons(FIT, scores_of(5), FIVE, STAR[:0], torch.zeros(0, dtype=torch.int64)) == []


def test_a_box_of_another_class_belongs_to_the_object_it_overlaps_more():
    near = STAR + torch.tensor([.1, 0, .1, 0])                            # IoU 0.6 with the star
    truth, labels = torch.cat([STAR, near]), torch.tensor([1, 2])
    assert box_iou(STAR, near) > .5
    assert miss_reasons(FIT, scores_of(5, r0_a=.9), FIVE, truth, labels)[1] != 'wrong class'
    assert miss_reasons(torch.cat([near, FIT[1:]]), scores_of(5, r0_a=.9), FIVE, truth, labels)[1] == 'wrong class'


@given(st.integers(0, 10**6), st.integers(0, 6))
def test_reasons_mean_what_they_say(seed, n):
    g = torch.Generator().manual_seed(seed)
    oracle, anchors = noisy_oracle(seed, 20), noisy_oracle(seed, 20).anchors
    truth = cxcywh_to_xyxy(torch.rand(n, 4, generator=g) * .4 + .3)
    labels = torch.randint(1, 5, (n,), generator=g)
    reasons, m = miss_reasons(oracle.boxes, oracle.scores, anchors, truth, labels, .5), match(anchors, truth, labels)
    assert len(reasons) == n and set(reasons) <= set(FALSE_NEGATIVES)
    for i, (t, l, why) in enumerate(zip(truth, labels, reasons)):
        good = box_iou(t[None], oracle.boxes)[0] >= .5
        seen = bool((good & (oracle.scores[:, l - 1] >= .5)).any())
        assert (why == 'suppressed') == seen
        if why == 'no anchor': assert box_iou(t[None], anchors.xyxy).max() < .4
        if why == 'not matched': assert not ((m.labels > 0) & (m.index == i)).any() and box_iou(t[None], anchors.xyxy).max() >= .4
        if why in ('poor box', 'low score'): assert bool(good.any()) == (why == 'low score')


@pytest.mark.parametrize('row, kind', [
    (((0, 0, 4, 4), 'a', .9), 'hit'), (((0, 0, 4, 3), 'a', .5), 'duplicate'), (((10, 0, 14, 4), 'a', .9), 'confusion'),
    (((0, 0, 2, 3), 'a', .9), 'poor box'), (((0, 0, 2, 1), 'a', .9), 'poor box'), (((0, 0, 1, 1), 'a', .9), 'background'),
    (((20, 20, 24, 24), 'b', .9), 'background'),
    (((0, 0, 4, 4), 'c', .9), 'confusion'), (((20, 0, 24, 4), 'a', .9), 'ignored'), (((20, 0, 22, 3), 'a', .9), 'poor box'),
    (((2, 2, 2, 2), 'a', .9), 'background')])
def test_kinds_of_detections(row, kind):
    truth = Sample('x', [[0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4]], ['a', 'b', 'a'], [False, False, True])
    assert detection_status(detections([((0, 0, 4, 4), 'a', .8), row]), truth)[1] == kind


def test_mending_gains_what_one_can_work_out(tmp_path):
    "Two objects; one found behind a false alarm, one missed: AP of hits (0, 1) of 2."
    s = noise_samples(tmp_path, 1, objects=lambda i: 2)[0]
    s = replace(s, labels=['a', 'a'], boxes=[[0, 0, 10, 10], [30, 30, 40, 40]])
    anchors = Anchors(torch.tensor([[.5, .5, .2, .2]]).repeat(2, 1), torch.ones(2, 2))
    w, h = image_size(s.path)
    boxes = torch.tensor([[50 / w, 0, 1, 10 / h], [0, 0, 10 / w, 10 / h]])
    errors = find_errors(Oracle(boxes, scores_of(2, r0_a=.9, r1_a=.5), anchors), [s])
    assert errors.pictures[0].kinds == ['background', 'hit'] and errors.pictures[0].fates == ['found', 'no anchor']
    gains = {name: (n, g) for name, n, g in errors.rows if n}
    start = 51 * .5 / 101
    assert errors.map50() == pytest.approx(start) and set(gains) == {'missed: no anchor', 'false alarm: background'}
    assert gains['false alarm: background'] == (1, pytest.approx(51 / 101 - start))
    assert gains['missed: no anchor'] == (1, pytest.approx((51 + 50 * 2 / 3) / 101 - start))


def test_a_box_in_pixels_is_compared_in_shares_of_its_picture(tmp_path):
    "The same object, 0.41 from an anchor, in pictures of two shapes: found over the threshold, missed below it."
    for k, size in enumerate([(200, 50), (30, 90)]):
        Image.new('RGB', size).save(tmp_path/f'{k}.png')
        s = Sample(tmp_path/f'{k}.png', STAR.numpy() * [*size, *size], ['a'])
        for score, fate in [(.5, 'found'), (.2, 'low score')]:
            errors = find_errors(Oracle(FIT, scores_of(5, r0_a=score), FIVE), [s])
            assert errors.pictures[0].fates == [fate] and errors.pictures[0].kinds == ['hit'] * (score > .3)


def test_pictures_of_errors(tmp_path):
    data = noise_samples(tmp_path, 5, objects=lambda i: 8 - 2 * i)
    errors = find_errors(noisy_oracle(), data, .8)
    drawn = lambda p: len(p.kinds) + sum(f in FALSE_NEGATIVES for f in p.fates)
    worst = sorted(errors.pictures, key=lambda p: -p.errors)
    assert worst[0].errors > errors.pictures[0].errors                    # the first is not the worst
    fig = errors.show(n=2)
    assert isinstance(fig, plt.Figure) and [len(a.patches) for a in fig.axes] == [drawn(worst[0]), drawn(worst[1]), 0]
    texts = [t.get_text() for t in fig.axes[0].texts]
    names = [f'{n}: {f}' for n, f in zip(worst[0].sample.labels, worst[0].fates) if f in FALSE_NEGATIVES]
    said = zip(worst[0].found.labels, worst[0].found.scores, worst[0].kinds)
    assert texts == names + [f'{n} {s:.2f}' + f' {k}' * (k != 'hit') for n, s, k in said]
    places = [t.get_position() for t in fig.axes[0].texts]
    assert len({tuple(map(float, p)) for p in places}) == len(places) and all(0 < y < 48 for _, y in places)
    in_order = show_errors(errors, n=9, worst=False, ncols=2)
    assert [len(a.patches) for a in in_order.axes][:5] == [drawn(p) for p in errors.pictures]
    in_order.savefig(tmp_path/'errors.png')
    assert Image.open(tmp_path/'errors.png').width > 300 and Errors([], .3).show().axes
    plt.close('all')


@pytest.mark.parametrize('size', [(10, 3000), (3000, 10)])
def test_pictures_of_errors_keep_a_bounded_size(tmp_path, size):
    Image.new('RGB', size).save(tmp_path/'0.png')
    fig = find_errors(Oracle(FIT, scores_of(5, r0_a=.5), FIVE), [Sample(tmp_path/'0.png', STAR.numpy() * [*size, *size], ['a'])]).show()
    assert 1 < fig.get_figheight() < 20
    fig.savefig(tmp_path/'errors.png'); plt.close(fig)


class Straight:
    "A coder whose activations are the boxes."
    def decode(self, acts, anchors): return acts


class Learn: pass


@pytest.mark.parametrize('sizes', [(6,), (2, 3, 1)])
def test_the_metric_counts_as_the_report_does(sizes):
    g, n, learn = torch.Generator().manual_seed(0), sum(sizes), Learn()
    boxes, scores = cxcywh_to_xyxy(torch.rand(n, 12, 4, generator=g) * .3 + .3), torch.randn(n, 12, 5, generator=g) * 3
    truth, labels = boxes[:, :4] + torch.randn(n, 4, 4, generator=g) * .02, scores[:, :4, 1:].argmax(2) + 1
    labels[0] = 0; labels[1, 2:] = 0; truth[labels == 0] = 0
    metric = MeanAP(make_anchors((2, 2, 2)), Straight(), score_thresh=.2)
    for epoch_scores in (-scores, scores):                      # the second epoch forgets the first
        metric.reset()
        for part in zip(*(t.split(list(sizes)) for t in (epoch_scores, boxes, truth, labels))):
            learn.pred, learn.yb = part[:2], part[2:]
            metric.accumulate(learn)
    kept = non_max_suppression(boxes.clamp(0, 1), scores[..., 1:].sigmoid(), .2, .5)
    found = [Detections(b.numpy(), [VOCAB[i] for i in l], s.numpy(), None) for b, l, s in kept]
    samples = [Sample('x', b[l > 0], [VOCAB[i] for i in l if i]) for b, l in zip(truth, labels)]
    assert metric.name == 'map50' and 0 < metric.value < 1
    assert metric.value == pytest.approx(mean_ap(pr_curves(scored_outcomes(found, samples), samples), 101))
