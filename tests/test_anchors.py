import inspect
import math
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.ops import box_iou as torchvisions_iou

import ssd_tutorial
from makers import noise, picture, random_batch, truncate
from plain import plain_decode, plain_encode, plain_iou, plain_match
from ssd_tutorial.anchors import (
    CLAIMED_IOU, Anchors, SSDCoder, TanhCoder, coverage, decode_boxes, make_anchors, match,
    show_coverage, suggest_anchors, text_table
)
from ssd_tutorial.readers import Sample

RATIOS = ((1., 1.), (1., .5), (.5, 1.))
ANCHORS = {
    1: make_anchors(grids=(1,)),
    16: make_anchors(),
    189: make_anchors((4, 2, 1), (.7, 1., 1.3), RATIOS),
}
counts = st.lists(st.integers(0, 6), min_size=1, max_size=4)
sizes = st.sampled_from([1, 16, 189])
seeds = st.integers(0, 2**31)


def assert_match_is_plain(anchors, boxes, labels, thresh=.4, neg=None):
    "Images one by one; the plain match does not know padding, so it is taken off first."
    got = match(anchors, boxes, labels, thresh, neg)
    for i, (b, l) in enumerate(zip(boxes, labels)):
        real = (b[:, 2] > b[:, 0]).nonzero().flatten()
        if not len(real):
            assert (got.labels[i] == 0).all()
            continue
        target, index, iou = plain_match(anchors, b[real], l[real], thresh, neg)
        assert torch.equal(got.labels[i], target)
        assert_close(got.iou[i], iou)
        pos = target > 0
        assert torch.equal(got.index[i][pos], real[index][pos])
    return got


# ---- grids

def test_defaults_are_the_articles():
    a = make_anchors()
    eighths = [1/8, 3/8, 5/8, 7/8]
    centres = [(x, y) for x in eighths for y in eighths]
    corners = [[x - 1/8, y - 1/8, x + 1/8, y + 1/8] for x, y in centres]
    assert len(a) == 16 and a.coder == TanhCoder()
    assert torch.equal(a.cxcywh, torch.tensor([[x, y, 1/4, 1/4] for x, y in centres]))
    assert torch.equal(a.xyxy, torch.tensor(corners))
    assert torch.equal(a.cell, torch.full((16, 2), 1/4))


def test_order_of_grids_cells_zooms_and_ratios():
    zooms = (.7, 1.3)
    ratios = ((1., 1.), (1., .5))
    shapes = [(z * w, z * h) for z in zooms for w, h in ratios]
    want = [[(x + .5) / g, (y + .5) / g, w / g, h / g]
            for g in (3, 1) for x in range(g) for y in range(g) for w, h in shapes]
    a = make_anchors((3, 1), zooms, ratios)
    assert_close(a.cxcywh, torch.tensor(want))
    assert_close(a.cell, torch.tensor([1/3] * 2 * 36 + [1.] * 2 * 4).view(-1, 2))
    assert [len(x) for x in ANCHORS.values()] == [1, 16, 189]


# ---- the article's offsets

@given(sizes, seeds, st.floats(.01, 50))
def test_decode_is_plain(n, seed, scale):
    acts = torch.randn(3, n, 4, generator=torch.Generator().manual_seed(seed)) * scale
    got = decode_boxes(acts, ANCHORS[n])
    for g, a in zip(got, acts): assert_close(g, plain_decode(a, ANCHORS[n]))


def test_decode_of_zeros_is_the_anchor_and_its_reach_is_half():
    a = ANCHORS[16]
    assert_close(decode_boxes(torch.zeros(16, 4), a), a.xyxy)
    far = decode_boxes(torch.full((16, 4), 1e4), a)
    assert_close((far[:, :2] + far[:, 2:]) / 2, a.cxcywh[:, :2] + 1/8)
    assert_close(far[:, 2:] - far[:, :2], torch.full((16, 2), 3/8))


# ---- matching

@given(counts, sizes, st.sampled_from([2, 5, 21]), st.sampled_from([.2, .4, .6]),
       st.sampled_from([None, 0., .1, .2]), seeds)
def test_match_is_plain(counts, n, n_classes, thresh, neg, seed):
    _, boxes, labels = random_batch(counts, n, n_classes, seed, m=6)
    assert_match_is_plain(ANCHORS[n], boxes, labels, thresh, neg)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), sizes, seeds)
def test_match_is_plain_with_ties(counts, n, seed):
    "Copies of boxes with other labels, and boxes on the lines between the cells."
    _, boxes, labels = random_batch(counts, n, 4, seed)
    boxes[:, 1] = boxes[:, 0]
    assert_match_is_plain(ANCHORS[n], boxes, labels)
    corner = (boxes[..., :2] * 8).round() / 8
    boxes = torch.cat([corner, corner + 1/4], -1) * (labels > 0)[..., None]
    assert_match_is_plain(ANCHORS[n], boxes, labels)


@given(st.integers(1, 6), seeds)
def test_every_object_keeps_an_anchor_unless_a_later_one_takes_it(n, seed):
    _, boxes, labels = random_batch([n], 16, 5, seed)
    m = match(ANCHORS[16], boxes, labels)
    best = plain_iou(boxes[0], ANCHORS[16].xyxy).argmax(1).tolist()
    for i, a in enumerate(best):
        if a in best[i + 1:]: continue
        assert m.index[0, a] == i and m.labels[0, a] == labels[0, i] > 0
        assert m.iou[0, a] == pytest.approx(CLAIMED_IOU)


@given(st.integers(1, 6), st.sampled_from([16, 189]), seeds)
def test_match_is_that_of_torchvisions_ssd(n_objects, n, seed):
    "One threshold and forced matches: the same rule, also where two objects share an anchor."
    _, boxes, labels = random_batch([n_objects], n, 5, seed)
    m = match(ANCHORS[n], boxes[0], labels[0], .5)
    theirs = SSDMatcher(.5)(torchvisions_iou(boxes[0], ANCHORS[n].xyxy))
    pos = m.labels > 0
    assert torch.equal(pos, theirs >= 0) and torch.equal(m.index[pos], theirs[pos])
    assert torch.equal(m.labels[pos], labels[0][theirs[pos]])


@given(st.integers(1, 6), st.sampled_from([16, 189]), seeds)
def test_match_with_an_ignore_zone_is_torchvisions_if_not_forced(n_objects, n, seed):
    """torchvision's `Matcher` forces only anchors that overlap no other object more.

    So the anchors of forced matches are left out.
    """
    _, boxes, labels = random_batch([n_objects], n, 5, seed)
    m = match(ANCHORS[n], boxes[0], labels[0], .5, .4)
    iou = torchvisions_iou(boxes[0], ANCHORS[n].xyxy)
    theirs = Matcher(.5, .4)(iou)
    free = m.iou < 1.5
    assert free.sum() == n - len(iou.argmax(1).unique()) > 0
    assert torch.equal((m.labels == 0)[free], (theirs == -1)[free])
    assert torch.equal((m.labels == -1)[free], (theirs == -2)[free])
    assert torch.equal((m.labels > 0)[free], (theirs >= 0)[free])
    pos = free & (m.labels > 0)
    assert torch.equal(m.index[pos], theirs[pos])


def test_the_ignore_zone_begins_at_one_threshold_and_ends_before_the_other():
    centres = (0, .25, .5, .75, 2)    # IoU 1, 3/5, 1/3, 1/7, 0
    row = Anchors(torch.tensor([[x + .5, .5, 1., 1.] for x in centres]), torch.ones(5, 2))
    one = (torch.tensor([[0., 0, 1, 1]]), torch.tensor([7]))
    found = lambda *thresholds: match(row, *one, *thresholds).labels.tolist()
    assert found(.6, 1/3) == [7, 7, -1, 0, 0]
    assert found(.61, .34) == [7, -1, 0, 0, 0]
    assert found(.5, .5) == found(.5) == [7, 7, 0, 0, 0]
    assert found(1.1, 0.) == [7, -1, -1, -1, -1]                  # the forced match stays


def test_of_two_objects_with_one_best_anchor_the_later_gets_it():
    starts = (.05, .06, .07)
    small = torch.tensor([[[x, x, .1, .1] for x in starts]])
    for order in ([1, 2, 3], [3, 1, 2]):
        m = match(ANCHORS[16], small, torch.tensor([order]))
        assert m.labels.tolist() == [[order[-1], *[0] * 15]]
        assert m.index[0, 0] == 2 and m.iou[0, 0] == pytest.approx(CLAIMED_IOU)


def test_padding_between_the_objects_is_skipped():
    boxes = torch.tensor([[[0., 0, 0, 0], [0, 0, .25, .25], [0, 0, 0, 0], [.75, .75, 1, 1]]])
    m = assert_match_is_plain(ANCHORS[16], boxes, torch.tensor([[0, 2, 0, 3]]))
    assert m.labels[0, 0] == 2 and m.labels[0, 15] == 3 and (m.labels > 0).sum() == 2


def test_a_row_without_a_label_is_padding_even_with_an_area():
    # over two anchors, one of them not a forced match
    boxes = torch.tensor([[0., 0, .25, .5]] * 2 + [[.5, .5, .75, .75]])
    m = match(ANCHORS[16], boxes, torch.tensor([0, 2, 0]))
    assert m.labels.tolist() == [2, 2, *[0] * 14] and m.index[:2].tolist() == [1, 1]


@pytest.mark.parametrize('neg', [None, 0., .4])
@pytest.mark.parametrize('m', [0, 1, 5])
def test_without_objects_all_is_background(m, neg):
    labels = torch.zeros(3, m, dtype=torch.int64)
    got = match(ANCHORS[16], torch.zeros(3, m, 4), labels, .5, neg)
    assert got.labels.shape == got.index.shape == got.iou.shape == (3, 16)
    assert (got.labels == 0).all() and (got.iou <= 0).all() and (got.index >= 0).all()


def test_leading_dimensions_are_free():
    _, boxes, labels = random_batch([2, 0, 3, 1, 6, 4], 16, 5, 0)
    flat = match(ANCHORS[16], boxes, labels)
    deep = match(ANCHORS[16], boxes.view(2, 3, 6, 4), labels.view(2, 3, 6))
    one = match(ANCHORS[16], boxes[2], labels[2])
    for f, d, o in zip(flat, deep, one):
        assert torch.equal(d.flatten(0, 1), f) and torch.equal(o, f[2])


def test_arguments_are_not_modified():
    (_, acts), boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    anchors = make_anchors()
    given = [acts, boxes, labels, anchors.cxcywh, anchors.cell]
    before = [t.clone() for t in given]
    match(anchors, boxes, labels)
    decode_boxes(acts, anchors)
    assert all(torch.equal(t, b) for t, b in zip(given, before))


# ---- coders

CODERS = [TanhCoder(), SSDCoder(), SSDCoder((.3, .5))]


def functions_and_classes():
    "All that the package's modules make public, with its name."
    for module in iter_modules(ssd_tutorial.__path__):
        if module.name.startswith('_'): continue
        m = import_module(f'ssd_tutorial.{module.name}')
        for name in getattr(m, '__all__', []): yield f'{module.name}.{name}', getattr(m, name)


def methods(thing):
    "A function itself; a class and its methods."
    if not inspect.isclass(thing): return [thing]
    # a classmethod has its function inside
    members = [getattr(m, '__func__', m) for m in vars(thing).values()]
    return [thing, *filter(inspect.isfunction, members)]


def takes_a_coder(thing):
    try: return 'coder' in inspect.signature(thing).parameters
    except (TypeError, ValueError): return False    # a constant, or a class without a signature


def test_only_anchors_take_a_coder():
    "What is read with a model's anchors is read with the coder that it was trained with."
    everything = list(functions_and_classes())
    taking = {name for name, thing in everything if any(map(takes_a_coder, methods(thing)))}
    assert taking == {'anchors.Anchors', 'anchors.make_anchors'}


@pytest.mark.parametrize('coder', CODERS, ids=repr)
def test_loss_and_detector_use_the_coder_of_the_anchors(coder):
    from ssd_tutorial.data import Vocab
    from ssd_tutorial.loss import MultiBoxLoss, SSDLoss
    from ssd_tutorial.model import ssd_model
    from ssd_tutorial.predict import Detector, decode_predictions

    anchors = make_anchors((2,), coder=coder)
    acts = torch.randn(1, 4, 4)
    boxes = coder.decode(acts, anchors).clamp(0, 1)
    assert_close(anchors.decode(acts), coder.decode(acts, anchors))
    assert_close(decode_boxes(acts, anchors), coder.decode(acts, anchors))
    preds = (torch.zeros(1, 4, 2), acts)
    assert_close(decode_predictions(preds, anchors)[0], boxes)
    loss = MultiBoxLoss(anchors, 2)
    assert loss.anchors.coder == SSDLoss(anchors, 2).anchors.coder == coder
    model = ssd_model('resnet10', 2, pretrained=False, maps=1)
    assert Detector(model, loss.anchors, Vocab('a'), 64).anchors.coder == coder
    assert anchors.to('cpu').coder == coder


@given(st.sampled_from(CODERS), sizes, seeds)
def test_decode_and_encode_are_inverse(coder, n, seed):
    "From activations that both can hold; in double precision, as tanh is flat far out."
    a = Anchors(ANCHORS[n].cxcywh.double(), ANCHORS[n].cell.double(), coder)
    g = torch.Generator().manual_seed(seed)
    acts = (torch.rand(3, n, 4, generator=g, dtype=torch.float64) * 2 - 1) * 3.5
    boxes = a.decode(acts)
    assert_close(a.encode(boxes), acts, rtol=1e-6, atol=1e-6)
    assert_close(a.decode(a.encode(boxes)), boxes)
    zeros = torch.zeros(n, 4, dtype=torch.float64)
    assert_close(a.encode(a.xyxy), zeros, rtol=0, atol=1e-9)


@given(sizes, seeds)
def test_ssds_offsets_are_torchvisions(n, seed):
    theirs = BoxCoder((10., 10., 5., 5.))
    a = replace(ANCHORS[n], coder=SSDCoder())
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, n, 2, generator=g)
    boxes = torch.cat([corner, corner + size + .01], 1)
    near = dict(rtol=1e-4, atol=1e-4)
    assert_close(a.encode(boxes), theirs.encode_single(boxes, a.xyxy), **near)
    assert_close(a.encode(boxes), plain_encode(boxes, a), **near)
    acts = torch.randn(n, 4, generator=g) * 12      # beyond the limit of the sizes, too
    assert_close(a.decode(acts), theirs.decode_single(acts, a.xyxy), **near)


@pytest.mark.parametrize('box, want', [
    ((-8.5, -8.5, 9.5, 9.5), (-.25, -.25, 1.25, 1.25)),
    ((.5, .5, .5, .5), (.25, .25, .75, .75)),
    ((2., 0, 3, 1), (.5, 0, 1.5, 1)),
])
def test_out_of_the_articles_reach_the_nearest_is_encoded(box, want):
    "Its anchors move by half a cell and grow or shrink by a half."
    a = make_anchors((1,))
    nearest = a.decode(a.encode(torch.tensor([box])))
    assert_close(nearest, torch.tensor([want]), atol=1e-3, rtol=0)


def test_ssds_offsets_go_anywhere_and_grow_to_62_times_the_size():
    a = make_anchors((1,), coder=SSDCoder())
    for box in [(-9., -9, 9, 9), (2., 0, 3, 1), (.5, .5, .501, .501)]:
        want = torch.tensor([box])
        assert_close(a.decode(a.encode(want)), want, rtol=1e-4, atol=1e-5)
    largest = torch.tensor([[-30.75, -30.75, 31.75, 31.75]])
    assert_close(a.decode(torch.tensor([[0., 0, 1e9, 1e9]])), largest)


@pytest.mark.parametrize('coder', CODERS, ids=repr)
def test_boxes_of_no_area_are_encoded_finitely(coder):
    flat = torch.tensor([[.5, .5, .5, .5], [0, 0, 0, 0], [.1, .2, .3, .2], [.6, .6, .4, .4]])
    a = Anchors(ANCHORS[16].cxcywh[:4], ANCHORS[16].cell[:4], coder)
    acts = a.encode(flat)
    assert acts.isfinite().all() and a.decode(acts).isfinite().all()
    assert a.encode(flat.expand(2, 3, 4, 4)).shape == (2, 3, 4, 4)


# ---- thresholds in the chapter's table

def test_the_table_of_thresholds_is_that_of_the_losses():
    from ssd_tutorial.loss import MultiBoxLoss, SSDLoss
    article = SSDLoss(ANCHORS[16], 2)
    ours = MultiBoxLoss(ANCHORS[16], 2)
    defaults = inspect.signature(match).parameters
    assert (defaults['match_thresh'].default, defaults['neg_thresh'].default) == (.4, None)
    assert article.matcher.keywords == dict(match_thresh=.4)
    assert ours.matcher.keywords == dict(match_thresh=.5, neg_thresh=.4)


# ---- coverage

def test_a_table_of_text():
    shown = text_table(['', 'n', 'share'], [['all', '120', '5.0%'], ['a', '3', '-']])
    assert shown == '       n  share\nall  120   5.0%\na      3      -'
    assert text_table(['one', 'two'], []) == 'one  two'


def test_the_table_says_where_there_is_nothing_to_count(tmp_path):
    empty = repr(coverage([], ANCHORS[16]))
    assert empty.splitlines()[1].split() == ['all', '0', '-', '-', '-']
    assert 'nan' not in empty
    bananas = Sample(noise(tmp_path/'x.png'), [[5, 5, 45, 30]] * 3, ['banana'] * 3)
    same = repr(coverage([bananas], ANCHORS[16]))
    assert 'banana' in same and 'nan' not in same.replace('banana', '')
    assert len({len(l) for l in same.splitlines()}) == 1


def test_names_of_classes_may_be_long_or_that_of_all(tmp_path):
    file = noise(tmp_path/'x.png')
    c = coverage([Sample(file, [[5, 5, 45, 30]] * 2, ['all', 'a very long name of a class'])],
                 ANCHORS[16])
    assert len({len(l) for l in repr(c).splitlines()}) == 1
    assert [r[1] for r in c.rows() if r[0].startswith('a very')] == [1]


@pytest.mark.parametrize('given, word', [
    (dict(n_zooms=13), 'n_zooms=13'), (dict(n_zooms=0), 'n_zooms=0'),
    (dict(n_ratios=0), 'n_ratios=0'),
])
def test_as_many_anchors_as_there_are_to_choose_from(tmp_path, given, word):
    sample = Sample(noise(tmp_path/'x.png'), [[5, 5, 45, 30]], ['a'])
    with pytest.raises(ValueError, match=word): suggest_anchors([sample], (4,), **given)


def annotated(folder, seed, counts=(3, 0, 5, 1), size=(64, 48), flat=False):
    "Pictures with random objects; the last object of each has no area if `flat`."
    g = np.random.default_rng(seed)
    made = []
    for i, n in enumerate(counts):
        corner = g.random((n, 2)) * .6
        opposite = corner + g.random((n, 2)) * .35 + .05
        boxes = np.concatenate([corner, opposite], 1) * [*size, *size]
        if flat and n: boxes[-1, 2] = boxes[-1, 0]
        labels = [('cat', 'dog')[k % 2] for k in range(n)]
        made.append(Sample(picture(folder/f'{i}.png', size), boxes, labels))
    return made


def counted(sample, anchors, thresh):
    "Best IoU of each object and number of its positive anchors, by the plain match."
    b = torch.tensor(sample.boxes / [64, 48, 64, 48], dtype=torch.float32)
    best = plain_iou(b, anchors.xyxy).amax(1).tolist()
    positives = [0] * len(b)
    real = (b[:, 2] > b[:, 0]).nonzero().flatten().tolist()
    if not real: return best, positives
    target, index, _ = plain_match(anchors, b[real], torch.ones(len(real)), thresh)
    for i in index[target == 1].tolist(): positives[real[i]] += 1
    return best, positives


@pytest.mark.parametrize('flat', [False, True])
@pytest.mark.parametrize('n', [1, 16, 189])
@pytest.mark.parametrize('thresh', [.3, .5])
def test_coverage_is_counted_directly(tmp_path, n, thresh, flat):
    samples = annotated(tmp_path, n, flat=flat)
    c = coverage(samples, ANCHORS[n], thresh)
    best = []
    positives = []
    area = []
    for s in samples:
        more_best, more_positives = counted(s, ANCHORS[n], thresh)
        best += more_best
        positives += more_positives
        area += [(x2 - x1) * (y2 - y1) / 64 / 48 for x1, y1, x2, y2 in s.boxes.tolist()]
    assert c.best.tolist() == pytest.approx(best, abs=1e-6)
    assert c.positives.tolist() == positives
    assert c.side.tolist() == pytest.approx([math.sqrt(max(0, a)) for a in area])
    assert c.labels == [l for s in samples for l in s.labels] and c.match_thresh == thresh


def test_the_table_of_coverage(tmp_path):
    c = coverage(annotated(tmp_path, 0), ANCHORS[189])
    best = np.array(c.best.tolist())
    everything, cat, dog, *by_size = c.rows()
    names = [everything[0], cat[0], dog[0]]
    assert names == ['all', 'cat', 'dog'] and len(by_size) == 3
    assert everything[1] == sum(s[1] for s in by_size) == cat[1] + dog[1] == 9
    assert everything[2:4] == pytest.approx((np.mean(best >= .5), np.mean(best)))
    assert everything[4] == pytest.approx(np.mean(c.positives.tolist())) and cat[1] == 6
    cats = best[[l == 'cat' for l in c.labels]]
    assert cat[2:4] == pytest.approx((np.mean(cats >= .5), np.mean(cats)))
    small = best[np.argsort(c.side.tolist())[:3]]
    assert by_size[0][1:4] == pytest.approx((3, np.mean(small >= .5), np.mean(small)))
    assert len(repr(c).splitlines()) == 7 and f'{everything[2]:.1%}' in repr(c)


@pytest.mark.parametrize('counts', [(), (0, 0), (1,), (0, 1)])
def test_coverage_of_nothing_and_of_one_object(tmp_path, counts):
    c = coverage(annotated(tmp_path, 1, counts), ANCHORS[16])
    assert len(c.best) == len(c.positives) == len(c.side) == len(c.labels) == sum(counts)
    assert c.rows()[0][:2] == ('all', sum(counts)) and 'all' in repr(c)
    if sum(counts): assert c.positives.item() >= 1
    one = show_coverage(c)
    two = show_coverage(c, c, titles=['good'])
    assert [a.get_title() for a in one.axes] == [''] * 2
    assert [a.get_title() for a in two.axes] == ['good', '', '']
    plt.close('all')


def test_coverage_does_not_decode_images(tmp_path):
    s = Sample(truncate(noise(tmp_path/'x.jpg')), [[0, 0, 16, 12]], ['cat'])
    assert coverage([s], ANCHORS[16]).best.item() == pytest.approx(1)


# ---- suggested anchors

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('grids, n_zooms, n_ratios', [
    ((4,), 1, 1), ((8, 4, 2), 2, 3), ((5, 3), 3, 2),
])
def test_suggested_anchors_directly(tmp_path, seed, grids, n_zooms, n_ratios):
    samples = annotated(tmp_path, seed, (4, 0, 6, 3))
    got = suggest_anchors(samples, grids, n_zooms, n_ratios)
    size = np.array([64, 48, 64, 48], np.float32)
    boxes = np.concatenate([s.boxes / size for s in samples]).astype(np.float32)
    shape = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    logs = np.quantile(shape, (np.arange(n_ratios) + .5) / n_ratios)
    for (w, h), log in zip(got['ratios'], logs):
        assert w == pytest.approx(np.exp(log / 2), abs=.006)
        assert h == pytest.approx(np.exp(-log / 2), abs=.006)

    def fit(zooms):
        anchors = make_anchors(grids, zooms, got['ratios'])
        return plain_iou(torch.tensor(boxes), anchors.xyxy).amax(1).mean().item()

    candidates = [round(2**(i / 4), 2) for i in range(-2, 10)]
    chosen = ()
    for _ in range(n_zooms):
        chosen = max([(*chosen, z) for z in candidates if z not in chosen], key=fit)
    assert got['grids'] == grids and got['zooms'] == tuple(sorted(chosen))
    assert len(make_anchors(**got)) == n_zooms * n_ratios * sum(g * g for g in grids)


def test_suggested_anchors_for_one_shape_only(tmp_path):
    "Objects twice as wide as high, as large as 1.41 cells of a picture with 4 by 4."
    boxes = [[x, y, x + 32, y + 16] for x in (0, 17) for y in (0, 30)]
    sample = Sample(picture(tmp_path/'x.png', (64, 64)), boxes, 'abcd')
    got = suggest_anchors([sample], (4,), 1, 2)
    ratios = ((1.41, .71),) * 2
    assert got == dict(grids=(4,), zooms=(1.41,), ratios=ratios, coder=SSDCoder())
    assert make_anchors(**got).coder == SSDCoder()


@pytest.mark.parametrize('counts', [(1,), (0, 2)])
def test_suggested_anchors_for_few_objects(tmp_path, counts):
    samples = annotated(tmp_path, 4, counts)
    chosen = make_anchors(**suggest_anchors(samples, (4, 2)))
    plain = make_anchors((4, 2))
    best, best_plain = (coverage(samples, a).best.mean() for a in (chosen, plain))
    assert best >= best_plain > 0


@pytest.mark.parametrize('counts', [(), (0, 0)])
def test_without_objects_there_is_nothing_to_suggest(tmp_path, counts):
    samples = annotated(tmp_path, 0, counts)
    with pytest.raises(ValueError, match='no objects'): suggest_anchors(samples, (4,))


def test_objects_without_area_do_not_stop_the_suggestion(tmp_path):
    got = suggest_anchors(annotated(tmp_path, 2, flat=True), (4, 2))
    assert make_anchors(**got).cxcywh.isfinite().all()


def test_thousands_of_objects_need_no_more_time_than_two_thousand(tmp_path):
    "Every object looked at is compared with all anchors, twelve times."
    file = picture(tmp_path/'x.png')
    many = [Sample(file, [[1, 1, 17, 9]] * 5, 'aaaaa')] * 1000
    samples = [*many, Sample(file, [[0, 0, 64, 48]], 'a')]
    assert suggest_anchors(samples, (4,), 1, 1)['ratios'] == ((1.22, .82),)


def test_of_more_than_2000_objects_every_second_or_third_is_looked_at(tmp_path):
    "4002 objects: every third of them, the first of each sample, twice as wide as high."
    boxes = [[1, 1, 33, 13], [1, 1, 9, 33], [1, 1, 9, 33]]
    samples = [Sample(picture(tmp_path/'x.png'), boxes, 'aaa')] * 1334
    assert suggest_anchors(samples, (4,), 1, 1)['ratios'] == ((1.41, .71),)
    assert suggest_anchors(samples[:600], (4,), 1, 1)['ratios'] == ((.43, 2.31),)
