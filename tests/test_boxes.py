import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision import ops

from ssd_tutorial.boxes import (
    box_area, box_fault, box_iou, clip_boxes, cxcywh_to_xyxy, xyxy_to_cxcywh
)

number = st.floats(-2, 2, width=32)
side = st.floats(0, 2, width=32).map(lambda v: 0. if v < 1e-3 else v)
rows = st.lists(st.tuples(number, number, side, side), min_size=1, max_size=6)


@st.composite
def boxes(draw):
    x, y, w, h = torch.tensor(draw(rows)).unbind(1)
    return torch.stack([x, y, x + w, y + h], 1)


@given(boxes())
def test_area_is_torchvisions(b): assert_close(box_area(b), ops.box_area(b))


@given(boxes(), boxes())
def test_iou_is_torchvisions(a, b):
    want = ops.box_iou(a, b).nan_to_num(0.)
    assert_close(box_iou(a, b), want, rtol=1e-5, atol=1e-6)


def iou_by_coordinate(a, b):
    "With the same roundings, one coordinate at a time."
    ax1, ay1, ax2, ay2 = a[:, None].unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return w * h / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - w * h)


@given(st.integers(0, 2**31), st.sampled_from([4, 8, 2**20]))
def test_iou_is_the_same_to_the_last_bit(seed, steps):
    "On a coarse grid many IoUs are equal; matching decides such ties by the last bit."
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, 40, 2, generator=g)
    b = torch.cat([corner, corner + size], 1).mul(steps).round() / steps
    b = b[box_area(b) > 0]
    assert torch.equal(box_iou(b, b), iou_by_coordinate(b, b))


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 7))
def test_leading_dimensions_are_a_loop(seed, n, m):
    g = torch.Generator().manual_seed(seed)
    a, b = (cxcywh_to_xyxy(torch.rand(2, 3, k, 4, generator=g)) for k in (n, m))
    got = box_iou(a, b)
    first = box_iou(a, b[0, 0])
    assert got.shape == (2, 3, n, m) == first.shape
    for i, j in itertools.product(range(2), range(3)):
        assert_close(got[i, j], ops.box_iou(a[i, j], b[i, j]))
        assert_close(first[i, j], ops.box_iou(a[i, j], b[0, 0]))
        assert_close(box_area(a)[i, j], ops.box_area(a[i, j]))


@given(boxes())
def test_formats_round_trip(b):
    assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(b)), b, rtol=0, atol=1e-6)
    assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(b)), b, rtol=0, atol=1e-6)
    assert_close(xyxy_to_cxcywh(b), ops.box_convert(b, 'xyxy', 'cxcywh'))


@given(boxes(), boxes())
def test_iou_is_between_0_and_1_and_symmetric(a, b):
    iou = box_iou(a, b)
    assert iou.isfinite().all() and (iou >= 0).all() and (iou <= 1 + 1e-6).all()
    assert_close(iou, box_iou(b, a).mT)


@given(boxes())
def test_a_box_has_iou_1_with_itself_unless_it_has_no_area(b):
    assert_close(box_iou(b, b).diagonal(), (box_area(b) > 0).float())


@given(st.integers(0, 2**31), number, number)
def test_iou_does_not_change_when_both_move(seed, dx, dy):
    g = torch.Generator().manual_seed(seed)
    a, b = cxcywh_to_xyxy(torch.rand(2, 5, 4, generator=g, dtype=torch.float64))
    shift = torch.tensor([dx, dy, dx, dy], dtype=torch.float64)
    assert_close(box_iou(a + shift, b + shift), box_iou(a, b), rtol=1e-6, atol=1e-8)


def test_no_area_is_never_nan():
    flat = torch.tensor([[.5, .5, .5, .5], [0, 0, 1, 0], [0, 0, 0, 0], [.6, .6, .4, .4]])
    assert (box_iou(flat, flat) == 0).all() and (box_area(flat) == 0).all()
    assert box_iou(flat[:0], flat).shape == (0, 4) and box_iou(flat, flat[:0]).shape == (4, 0)


def test_iou_has_a_finite_gradient_at_a_flat_box():
    b = torch.tensor([[.5, .5, .5, .5], [.1, .1, .4, .4]], requires_grad=True)
    box_iou(b, torch.tensor([[0., 0, 1, 1]])).sum().backward()
    assert b.grad.isfinite().all()


def random_boxes(seed, *shape):
    "With an area, in double precision, and with no two edges in the same place."
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, *shape, 2, generator=g, dtype=torch.float64)
    return torch.cat([corner, corner + .1 + size], -1).requires_grad_()


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4))
def test_the_gradient_of_iou_is_torchvisions(seed, n, m):
    a = random_boxes(seed, n)
    b = random_boxes(seed + 1, m)
    weights = torch.rand(n, m, dtype=torch.float64)
    got = torch.autograd.grad((box_iou(a, b) * weights).sum(), (a, b))
    want = torch.autograd.grad((ops.box_iou(a, b) * weights).sum(), (a, b))
    for g, w in zip(got, want): assert_close(g, w)
    # the arguments have not changed
    assert torch.equal(a, random_boxes(seed, n)) and torch.equal(b, random_boxes(seed + 1, m))


@pytest.mark.parametrize('shapes', [
    ((3,), (2,)), ((2, 3), (2, 2)), ((2, 3), (4,)), ((2, 1, 3), (2, 2))])
def test_the_gradient_of_iou_is_that_of_finite_differences(shapes):
    pair = [random_boxes(i, *s) for i, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(box_iou, pair)


@given(boxes(), st.floats(.5, 3), st.floats(.5, 3))
def test_clip_is_torchvisions_and_clipping_twice_changes_nothing(b, w, h):
    before = b.clone()
    once = clip_boxes(b, w, h)
    assert_close(once, ops.clip_boxes_to_image(b, (h, w)))
    assert torch.equal(clip_boxes(once, w, h), once) and torch.equal(b, before)


@pytest.mark.parametrize('box, phrase', [
    ((0, 0, 10, 20), ''), ((-1, -1, 101, 51), ''), ((0, 0, .5, .5), ''),
    ((10, 0, 5, 20), 'reversed'), ((0, 20, 5, 10), 'reversed'),
    ((5, 5, 5, 9), 'no area'), ((5, 5, 9, 5), 'no area'),
    ((-2, 0, 5, 5), 'leaves the 100x50'), ((0, 0, 102, 5), 'leaves'), ((0, 0, 5, 52), 'leaves'),
    ((0, math.nan, 5, 5), 'not finite'), ((0, 0, math.inf, 5), 'not finite')])
def test_box_fault(box, phrase):
    fault = box_fault(box, 100, 50)
    assert phrase in fault and bool(fault) == bool(phrase)
    assert box_fault(torch.tensor(box), 100, 50) == fault
