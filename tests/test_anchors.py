import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from makers import random_batch
from plain import plain_decode, plain_iou, plain_match
from ssd_tutorial.anchors import decode_boxes, make_anchors, match

ANCHORS = {1: make_anchors(grids=(1,)), 16: make_anchors(), 189: make_anchors((4, 2, 1), (.7, 1., 1.3), ((1., 1.), (1., .5), (.5, 1.)))}
counts = st.lists(st.integers(0, 6), min_size=1, max_size=4)
seeds = st.integers(0, 2**31)


def assert_match_is_plain(anchors, boxes, labels, thresh=.4):
    "Images one by one; the plain match does not know padding, so it is taken off first."
    got = match(anchors, boxes, labels, thresh)
    for i, (b, l) in enumerate(zip(boxes, labels)):
        real = (b[:, 2] > b[:, 0]).nonzero().flatten()
        if not len(real): assert (got.labels[i] == 0).all(); continue
        want_labels, want_index, want_iou = plain_match(anchors, b[real], l[real], thresh)
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


@given(counts, st.sampled_from([1, 16, 189]), st.sampled_from([2, 5, 21]), st.sampled_from([.2, .4, .6]), seeds)
def test_match_is_plain(counts, n, n_classes, thresh, seed):
    _, boxes, labels = random_batch(counts, n, n_classes, seed, m=6)
    assert_match_is_plain(ANCHORS[n], boxes, labels, thresh)


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


@pytest.mark.parametrize('m', [0, 1, 5])
def test_without_objects_all_is_background(m):
    got = match(ANCHORS[16], torch.zeros(3, m, 4), torch.zeros(3, m, dtype=torch.int64))
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
