import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.ops import box_iou as torchvisions_iou

from makers import noise, picture, random_batch, truncate
from plain import plain_decode, plain_encode, plain_iou, plain_match
from ssd_tutorial.anchors import (
    Anchors, SSDCoder, TanhCoder, coverage, decode_boxes, make_anchors, match, show_coverage,
    suggest_anchors
)
from ssd_tutorial.readers import Sample

ANCHORS = {1: make_anchors(grids=(1,)), 16: make_anchors(), 189: make_anchors((4, 2, 1), (.7, 1., 1.3), ((1., 1.), (1., .5), (.5, 1.)))}
counts = st.lists(st.integers(0, 6), min_size=1, max_size=4)
seeds = st.integers(0, 2**31)


def assert_match_is_plain(anchors, boxes, labels, thresh=.4, bg=None):
    "Images one by one; the plain match does not know padding, so it is taken off first."
    got = match(anchors, boxes, labels, thresh, bg)
    for i, (b, l) in enumerate(zip(boxes, labels)):
        real = (b[:, 2] > b[:, 0]).nonzero().flatten()
        if not len(real): assert (got.labels[i] == 0).all(); continue
        want_labels, want_index, want_iou = plain_match(anchors, b[real], l[real], thresh, bg)
        assert torch.equal(got.labels[i], want_labels)
        assert_close(got.iou[i], want_iou)
        pos = want_labels > 0
        assert torch.equal(got.index[i][pos], real[want_index][pos])
    return got


def test_defaults_are_the_articles():
    a, eighths = make_anchors(), [1/8, 3/8, 5/8, 7/8]
    assert len(a) == 16
    assert torch.equal(a.cxcywh, torch.tensor([[x, y, 1/4, 1/4] for x in eighths for y in eighths]))
    assert torch.equal(a.xyxy, torch.tensor([[x - 1/8, y - 1/8, x + 1/8, y + 1/8] for x in eighths for y in eighths]))
    assert torch.equal(a.cell, torch.full((16, 2), 1/4))


def test_order_of_grids_cells_zooms_and_ratios():
    zooms, ratios = (.7, 1.3), ((1., 1.), (1., .5))
    want = [[(x + .5) / g, (y + .5) / g, z * w / g, z * h / g]
            for g in (3, 1) for x in range(g) for y in range(g) for z in zooms for w, h in ratios]
    a = make_anchors((3, 1), zooms, ratios)
    assert_close(a.cxcywh, torch.tensor(want))
    assert_close(a.cell, torch.tensor([1/3] * 2 * 36 + [1.] * 2 * 4).view(-1, 2))
    assert [len(x) for x in ANCHORS.values()] == [1, 16, 189]


@given(st.sampled_from([1, 16, 189]), seeds, st.floats(.01, 50))
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


@given(counts, st.sampled_from([1, 16, 189]), st.sampled_from([2, 5, 21]), st.sampled_from([.2, .4, .6]), st.sampled_from([None, 0., .1, .2]),
       seeds)
def test_match_is_plain(counts, n, n_classes, thresh, bg, seed):
    _, boxes, labels = random_batch(counts, n, n_classes, seed, m=6)
    assert_match_is_plain(ANCHORS[n], boxes, labels, thresh, bg)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), st.sampled_from([1, 16, 189]), seeds)
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
    m, claims = match(ANCHORS[16], boxes, labels), plain_iou(boxes[0], ANCHORS[16].xyxy).argmax(1).tolist()
    for i, a in enumerate(claims):
        if a in claims[i + 1:]: continue
        assert m.index[0, a] == i and m.labels[0, a] == labels[0, i] > 0 and m.iou[0, a] == pytest.approx(1.99)


@given(st.integers(1, 6), st.sampled_from([16, 189]), seeds)
def test_match_is_that_of_torchvisions_ssd(n_objects, n, seed):
    "One threshold, and each object claims its best anchor: the same rule, also where two objects claim one anchor."
    _, boxes, labels = random_batch([n_objects], n, 5, seed)
    m, theirs = match(ANCHORS[n], boxes[0], labels[0], .5), SSDMatcher(.5)(torchvisions_iou(boxes[0], ANCHORS[n].xyxy))
    assert torch.equal(m.labels > 0, theirs >= 0) and torch.equal(m.index[m.labels > 0], theirs[theirs >= 0])
    assert torch.equal(m.labels[m.labels > 0], labels[0][theirs[theirs >= 0]])


@given(st.integers(1, 6), st.sampled_from([16, 189]), seeds)
def test_match_with_a_middle_ground_is_torchvisions_where_nobody_claims(n_objects, n, seed):
    "torchvision's `Matcher` can only claim anchors for the object that they overlap most, so the claimed ones are left out."
    _, boxes, labels = random_batch([n_objects], n, 5, seed)
    m, iou = match(ANCHORS[n], boxes[0], labels[0], .5, .4), torchvisions_iou(boxes[0], ANCHORS[n].xyxy)
    theirs, free = Matcher(.5, .4)(iou), m.iou < 1.5
    assert free.sum() == n - len(iou.argmax(1).unique()) > 0
    for ours, code in [(m.labels == 0, -1), (m.labels == -1, -2), (m.labels > 0, theirs.clamp(min=0))]:
        assert torch.equal(ours[free], (theirs == code)[free])
    pos = free & (m.labels > 0)
    assert torch.equal(m.index[pos], theirs[pos])


def test_the_middle_ground_begins_at_one_threshold_and_ends_before_the_other():
    row = Anchors(torch.tensor([[x + .5, .5, 1., 1.] for x in (0, .25, .5, .75, 2)]), torch.ones(5, 2))      # IoU 1, 3/5, 1/3, 1/7, 0
    square, label = torch.tensor([[0., 0, 1, 1]]), torch.tensor([7])
    assert match(row, square, label, .6, 1/3).labels.tolist() == [7, 7, -1, 0, 0]
    assert match(row, square, label, .61, .34).labels.tolist() == [7, -1, 0, 0, 0]
    assert match(row, square, label, .5, .5).labels.tolist() == match(row, square, label, .5).labels.tolist() == [7, 7, 0, 0, 0]
    assert match(row, square, label, 1.1, 0.).labels.tolist() == [7, -1, -1, -1, -1]                       # the claim stays positive


def test_the_later_of_two_claims_wins():
    small = torch.tensor([[[.05, .05, .1, .1], [.06, .06, .1, .1], [.07, .07, .1, .1]]])
    for order in ([1, 2, 3], [3, 1, 2]):
        m = match(ANCHORS[16], small, torch.tensor([order]))
        assert m.labels.tolist() == [[order[-1], *[0] * 15]] and m.index[0, 0] == 2 and m.iou[0, 0] == pytest.approx(1.99)


def test_padding_between_the_objects_is_skipped():
    boxes = torch.tensor([[[0., 0, 0, 0], [0, 0, .25, .25], [0, 0, 0, 0], [.75, .75, 1, 1]]])
    m = assert_match_is_plain(ANCHORS[16], boxes, torch.tensor([[0, 2, 0, 3]]))
    assert m.labels[0, 0] == 2 and m.labels[0, 15] == 3 and (m.labels > 0).sum() == 2


def test_a_row_without_a_label_is_padding_even_with_an_area():
    boxes = torch.tensor([[0., 0, .25, .5]] * 2 + [[.5, .5, .75, .75]])    # over two anchors, one of them not claimed
    m = match(ANCHORS[16], boxes, torch.tensor([0, 2, 0]))
    assert m.labels.tolist() == [2, 2, *[0] * 14] and m.index[:2].tolist() == [1, 1]


@pytest.mark.parametrize('bg', [None, 0., .4])
@pytest.mark.parametrize('m', [0, 1, 5])
def test_without_objects_all_is_background(m, bg):
    got = match(ANCHORS[16], torch.zeros(3, m, 4), torch.zeros(3, m, dtype=torch.int64), .5, bg)
    assert got.labels.shape == got.index.shape == got.iou.shape == (3, 16)
    assert (got.labels == 0).all() and (got.iou <= 0).all() and (got.index >= 0).all()


def test_leading_dimensions_are_free():
    _, boxes, labels = random_batch([2, 0, 3, 1, 6, 4], 16, 5, 0)
    flat, deep = match(ANCHORS[16], boxes, labels), match(ANCHORS[16], boxes.view(2, 3, 6, 4), labels.view(2, 3, 6))
    one = match(ANCHORS[16], boxes[2], labels[2])
    for f, d, o in zip(flat, deep, one): assert torch.equal(d.flatten(0, 1), f) and torch.equal(o, f[2])


def test_arguments_are_not_modified():
    (_, acts), boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    anchors = make_anchors()
    all_of_them = [acts, boxes, labels, anchors.cxcywh, anchors.cell]
    before = [t.clone() for t in all_of_them]
    match(anchors, boxes, labels); decode_boxes(acts, anchors)
    assert all(torch.equal(t, b) for t, b in zip(all_of_them, before))


# ---- coders

CODERS = [TanhCoder(), SSDCoder(), SSDCoder((.3, .5))]


@given(st.sampled_from(CODERS), st.sampled_from([1, 16, 189]), seeds)
def test_decode_and_encode_are_inverse(coder, n, seed):
    "From activations that both can hold; in double precision, as tanh is flat far out."
    a = Anchors(ANCHORS[n].cxcywh.double(), ANCHORS[n].cell.double())
    acts = (torch.rand(3, n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1) * 3.5
    boxes = coder.decode(acts, a)
    assert_close(coder.encode(boxes, a), acts, rtol=1e-6, atol=1e-6)
    assert_close(coder.decode(coder.encode(boxes, a), a), boxes)
    assert_close(coder.encode(a.xyxy, a), torch.zeros(n, 4, dtype=torch.float64), rtol=0, atol=1e-9)


@given(st.sampled_from([1, 16, 189]), seeds)
def test_ssds_offsets_are_torchvisions(n, seed):
    theirs, g = BoxCoder((10., 10., 5., 5.)), torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, n, 2, generator=g)
    boxes = torch.cat([corner, corner + size + .01], 1)
    assert_close(SSDCoder().encode(boxes, ANCHORS[n]), theirs.encode_single(boxes, ANCHORS[n].xyxy), rtol=1e-4, atol=1e-4)
    assert_close(SSDCoder().encode(boxes, ANCHORS[n]), plain_encode(boxes, ANCHORS[n]), rtol=1e-4, atol=1e-4)
    acts = torch.randn(n, 4, generator=g) * 12                    # beyond the limit of the sizes, too
    assert_close(SSDCoder().decode(acts, ANCHORS[n]), theirs.decode_single(acts, ANCHORS[n].xyxy), rtol=1e-4, atol=1e-4)


def test_out_of_reach_the_nearest_is_encoded():
    "The article's anchors move by half a cell and grow or shrink by a half; SSD's go anywhere and grow 62.5 times."
    a = make_anchors((1,))
    for box, want in [((-8.5, -8.5, 9.5, 9.5), (-.25, -.25, 1.25, 1.25)), ((.5, .5, .5, .5), (.25, .25, .75, .75)), ((2., 0, 3, 1), (.5, 0, 1.5, 1))]:
        b = TanhCoder().decode(TanhCoder().encode(torch.tensor([box]), a), a)
        assert_close(b, torch.tensor([want]), atol=1e-3, rtol=0)
    for box in [(-9., -9, 9, 9), (2., 0, 3, 1), (.5, .5, .501, .501)]:
        assert_close(SSDCoder().decode(SSDCoder().encode(torch.tensor([box]), a), a), torch.tensor([box]), rtol=1e-4, atol=1e-5)
    assert_close(SSDCoder().decode(torch.tensor([[0., 0, 1e9, 1e9]]), a), torch.tensor([[-30.75, -30.75, 31.75, 31.75]]))


@pytest.mark.parametrize('coder', CODERS, ids=repr)
def test_boxes_of_no_area_are_encoded_finitely(coder):
    flat = torch.tensor([[.5, .5, .5, .5], [0, 0, 0, 0], [.1, .2, .3, .2], [.6, .6, .4, .4]])
    a = Anchors(ANCHORS[16].cxcywh[:4], ANCHORS[16].cell[:4])
    acts = coder.encode(flat, a)
    assert acts.isfinite().all() and coder.decode(acts, a).isfinite().all()
    assert acts[None].expand(2, 3, 4, 4).shape == coder.encode(flat.expand(2, 3, 4, 4), a).shape


# ---- coverage

def test_the_table_says_where_there_is_nothing_to_count(tmp_path):
    assert [l.split() for l in repr(coverage([], ANCHORS[16])).splitlines()[1:2]] == [['all', '0', '-', '-', '-']]
    assert 'nan' not in repr(coverage([], ANCHORS[16]))
    same = coverage([Sample(noise(tmp_path/'x.png'), [[5, 5, 45, 30]] * 3, ['banana'] * 3)], ANCHORS[16])
    assert 'banana' in repr(same) and 'nan' not in repr(same).replace('banana', '') and len({len(l) for l in repr(same).splitlines()}) == 1


@pytest.mark.parametrize('given, word', [(dict(n_zooms=13), 'n_zooms=13'), (dict(n_zooms=0), 'n_zooms=0'), (dict(n_ratios=0), 'n_ratios=0')])
def test_as_many_anchors_as_there_are_to_choose_from(tmp_path, given, word):
    with pytest.raises(ValueError, match=word): suggest_anchors([Sample(noise(tmp_path/'x.png'), [[5, 5, 45, 30]], ['a'])], (4,), **given)


def annotated(folder, seed, counts=(3, 0, 5, 1), size=(64, 48), flat=False):
    "Pictures with random objects; the last object of each has no area if `flat`."
    g, made = np.random.default_rng(seed), []
    for i, n in enumerate(counts):
        corner = g.random((n, 2)) * .6
        boxes = np.concatenate([corner, corner + g.random((n, 2)) * .35 + .05], 1) * [*size, *size]
        if flat and n: boxes[-1, 2] = boxes[-1, 0]
        made.append(Sample(picture(folder/f'{i}.png', size), boxes, [('cat', 'dog')[k % 2] for k in range(n)]))
    return made


@pytest.mark.parametrize('flat', [False, True])
@pytest.mark.parametrize('n', [1, 16, 189])
@pytest.mark.parametrize('thresh', [.3, .5])
def test_coverage_is_counted_directly(tmp_path, n, thresh, flat):
    samples = annotated(tmp_path, n, flat=flat)
    c, best, positives = coverage(samples, ANCHORS[n], thresh), [], []
    for s in samples:
        b = torch.tensor(s.boxes / [64, 48, 64, 48], dtype=torch.float32)
        real = (b[:, 2] > b[:, 0]).nonzero().flatten().tolist()
        best += plain_iou(b, ANCHORS[n].xyxy).amax(1).tolist()
        target, index, _ = plain_match(ANCHORS[n], b[real], torch.ones(len(real)), thresh) if real else ([], [], None)
        positives += [sum(t == 1 and real[i] == k for t, i in zip(target, index)) for k in range(len(b))]
    assert c.best.tolist() == pytest.approx(best, abs=1e-6) and c.positives.tolist() == positives
    area = [(x2 - x1) * (y2 - y1) / 64 / 48 for s in samples for x1, y1, x2, y2 in s.boxes.tolist()]
    assert c.side.tolist() == pytest.approx([math.sqrt(max(0, a)) for a in area])
    assert c.labels == [l for s in samples for l in s.labels] and c.match_thresh == thresh


def test_the_table_of_coverage(tmp_path):
    samples = annotated(tmp_path, 0)
    c = coverage(samples, ANCHORS[189])
    (name, n, share, mean, positives), cat, dog, *sizes = c.rows()
    assert (name, n, cat[0], dog[0], len(sizes)) == ('all', 9, 'cat', 'dog', 3) and sum(s[1] for s in sizes) == cat[1] + dog[1] == 9
    assert share == pytest.approx(np.mean([b >= .5 for b in c.best.tolist()])) and mean == pytest.approx(np.mean(c.best.tolist()))
    assert positives == pytest.approx(np.mean(c.positives.tolist())) and cat[1] == 6
    cats = [b for b, l in zip(c.best.tolist(), c.labels) if l == 'cat']
    assert cat[2:4] == pytest.approx((np.mean([b >= .5 for b in cats]), np.mean(cats)))
    small = sorted(range(9), key=c.side.tolist().__getitem__)[:3]
    assert sizes[0][1:4] == pytest.approx((3, np.mean([c.best[i] >= .5 for i in small]), np.mean([c.best[i].item() for i in small])))
    assert len(repr(c).splitlines()) == 7 and f'{share:.1%}' in repr(c)


@pytest.mark.parametrize('counts', [(), (0, 0), (1,), (0, 1)])
def test_coverage_of_nothing_and_of_one_object(tmp_path, counts):
    c = coverage(annotated(tmp_path, 1, counts), ANCHORS[16])
    assert len(c.best) == len(c.positives) == len(c.side) == len(c.labels) == sum(counts)
    assert c.rows()[0][:2] == ('all', sum(counts)) and 'all' in repr(c)
    if sum(counts): assert c.positives.item() >= 1
    one, two = show_coverage(c), show_coverage(c, c, titles=['good'])
    assert [a.get_title() for a in one.axes] == [''] * 2 and [a.get_title() for a in two.axes] == ['good', '', '']
    plt.close('all')


def test_coverage_does_not_decode_pictures(tmp_path):
    s = Sample(truncate(noise(tmp_path/'x.jpg')), [[0, 0, 16, 12]], ['cat'])
    assert coverage([s], ANCHORS[16]).best.item() == pytest.approx(1)


# ---- suggested anchors

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('grids, n_zooms, n_ratios', [((4,), 1, 1), ((8, 4, 2), 2, 3), ((5, 3), 3, 2)])
def test_suggested_anchors_directly(tmp_path, seed, grids, n_zooms, n_ratios):
    samples = annotated(tmp_path, seed, (4, 0, 6, 3))
    got = suggest_anchors(samples, grids, n_zooms, n_ratios)
    boxes = np.concatenate([s.boxes / np.array([64, 48, 64, 48], np.float32) for s in samples]).astype(np.float32)
    shape = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    for (w, h), log in zip(got['ratios'], np.quantile(shape, (np.arange(n_ratios) + .5) / n_ratios)):
        assert w == pytest.approx(np.exp(log / 2), abs=.006) and h == pytest.approx(np.exp(-log / 2), abs=.006)
    fit = lambda zooms: plain_iou(torch.tensor(boxes), make_anchors(grids, zooms, got['ratios']).xyxy).amax(1).mean().item()
    candidates, chosen = [round(2**(i / 4), 2) for i in range(-2, 10)], ()
    for _ in range(n_zooms): chosen = max([(*chosen, z) for z in candidates if z not in chosen], key=fit)
    assert got['grids'] == grids and got['zooms'] == tuple(sorted(chosen))
    assert len(make_anchors(**got)) == n_zooms * n_ratios * sum(g * g for g in grids)


def test_suggested_anchors_for_one_shape_only(tmp_path):
    "Objects twice as wide as high, as large as 1.41 cells of a picture with 4 by 4."
    boxes = [[x, y, x + 32, y + 16] for x in (0, 17) for y in (0, 30)]
    got = suggest_anchors([Sample(picture(tmp_path/'x.png', (64, 64)), boxes, 'abcd')], (4,), 1, 2)
    assert got == dict(grids=(4,), zooms=(1.41,), ratios=((1.41, .71),) * 2)


@pytest.mark.parametrize('counts', [(1,), (0, 2)])
def test_suggested_anchors_for_few_objects(tmp_path, counts):
    samples = annotated(tmp_path, 4, counts)
    plain, chosen = (coverage(samples, a).best.mean() for a in (make_anchors((4, 2)), make_anchors(**suggest_anchors(samples, (4, 2)))))
    assert chosen >= plain > 0


@pytest.mark.parametrize('counts', [(), (0, 0)])
def test_without_objects_there_is_nothing_to_suggest(tmp_path, counts):
    with pytest.raises(ValueError, match='no objects'): suggest_anchors(annotated(tmp_path, 0, counts), (4,))


def test_objects_without_area_do_not_stop_the_suggestion(tmp_path):
    got = suggest_anchors(annotated(tmp_path, 2, flat=True), (4, 2))
    assert make_anchors(**got).cxcywh.isfinite().all()


def test_thousands_of_objects_need_no_more_time_than_two_thousand(tmp_path):
    "Every object looked at is compared with all anchors, twelve times."
    file = picture(tmp_path/'x.png')
    samples = [Sample(file, [[1, 1, 17, 9]] * 5, 'aaaaa')] * 1000 + [Sample(file, [[0, 0, 64, 48]], 'a')]
    assert suggest_anchors(samples, (4,), 1, 1)['ratios'] == ((1.22, .82),)
