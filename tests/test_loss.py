from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import (
    box_iou, generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss
)

from makers import random_batch
from plain import plain_class_loss, plain_hardest, plain_loss, plain_multibox_loss
from ssd_tutorial.boxes import cxcywh_to_xyxy
from ssd_tutorial.anchors import Anchors, SSDCoder, TanhCoder, make_anchors, match
from ssd_tutorial.loss import (
    BCELoss, FocalLoss, GIoULoss, HardNegativeLoss, MultiBoxLoss, OffsetLoss, SSDLoss,
    VarifocalLoss, box_l1, paired_iou
)

RATIOS = ((1., 1.), (1., .5), (.5, 1.))
TANH = {16: make_anchors(), 189: make_anchors((4, 2, 1), (.7, 1., 1.3), RATIOS)}
SSD = {n: Anchors(a.cxcywh, a.cell, SSDCoder()) for n, a in TANH.items()}
ANCHORS = {SSDLoss: TANH, MultiBoxLoss: SSD}      # each with its usual coder
PLAIN = {SSDLoss: plain_loss, MultiBoxLoss: plain_multibox_loss}
both = pytest.mark.parametrize('kind', PLAIN)
seeds = st.integers(0, 2**31)


def value_and_gradients(loss, preds, *args):
    preds = [p.clone().requires_grad_() for p in preds]
    value = loss(preds, *args)
    value.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in preds]
    return value.detach(), *gradients


def assert_all_close(got, want, rtol=1e-5, atol=1e-6):
    for g, w in zip(got, want): assert_close(g, w, rtol=rtol, atol=atol)


def assert_loss_is_plain(kind, counts, n, n_classes, seed, m=None, anchors=None):
    preds, boxes, labels = random_batch(counts, n, n_classes, seed, m)
    anchors = anchors or ANCHORS[kind][n]
    got = value_and_gradients(kind(anchors, n_classes), preds, boxes, labels)
    plain = lambda p, b, l: PLAIN[kind](p, b, l, anchors)
    assert_all_close(got, value_and_gradients(plain, preds, boxes, labels))


@both
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5),
       n=st.sampled_from([16, 189]), n_classes=st.sampled_from([2, 3, 21]), seed=seeds)
def test_loss_and_gradients_are_plain(kind, counts, n, n_classes, seed):
    assert_loss_is_plain(kind, counts, n, n_classes, seed)


@both
@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=3), seed=seeds)
def test_one_anchor_is_plain(kind, counts, seed):
    coder = ANCHORS[kind][16].coder
    assert_loss_is_plain(kind, counts, 1, 2, seed, anchors=make_anchors((1,), coder=coder))


@both
@pytest.mark.parametrize('m', [0, 1, 6])
@pytest.mark.parametrize('b', [1, 4])
def test_a_batch_without_objects_is_plain(kind, b, m):
    assert_loss_is_plain(kind, [0] * b, 16, 5, 0, m)


@both
def test_without_objects_the_box_activations_get_no_gradient(kind):
    preds, boxes, labels = random_batch([0, 0], 16, 5, 0, 1)
    loss = kind(ANCHORS[kind][16], 5)
    value, by_class, by_box = value_and_gradients(loss, preds, boxes, labels)
    assert value.isfinite()
    assert by_class.isfinite().all()
    assert (by_class[..., 1:] != 0).all()
    assert (by_box == 0).all()


def plain_of(class_loss):
    "A function that does the same as a class loss."
    def plain(acts, target):
        if isinstance(class_loss, HardNegativeLoss): target = plain_hardest(acts, target, 2)
        if isinstance(class_loss, FocalLoss): return plain_class_loss(acts, target, .6, 2)
        return plain_class_loss(acts, target, .5, 0) * 2
    return plain


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4),
       st.sampled_from([(.5, .5), (.6, .1), (.3, None)]),
       st.sampled_from([TanhCoder(), SSDCoder((.3, .5))]),
       st.sampled_from([FocalLoss(.6, 2), BCELoss(), HardNegativeLoss(2)]), seeds)
def test_multibox_loss_with_other_parts_is_plain(counts, thresholds, coder, class_loss, seed):
    preds, boxes, labels = random_batch(counts, 189, 5, seed)
    anchors = Anchors(TANH[189].cxcywh, TANH[189].cell, coder)
    loss = MultiBoxLoss(anchors, 5, class_loss, *thresholds)
    got = value_and_gradients(loss, preds, boxes, labels)
    parts = *thresholds, plain_of(class_loss), coder.encode
    plain = lambda p, b, l: plain_multibox_loss(p, b, l, anchors, *parts)
    assert_all_close(got, value_and_gradients(plain, preds, boxes, labels))


# ---- overlaps of pairs

def random_pairs(n, seed):
    "Boxes and others, some of them equal, apart, or without an area."
    g = torch.Generator().manual_seed(seed)
    boxes, others = cxcywh_to_xyxy(torch.rand(2, n, 4, generator=g) * .5)
    others[::5] = boxes[::5]
    others[1::5] += 2
    boxes[2::7, 2:] = boxes[2::7, :2]
    return boxes, others


@given(seeds)
def test_overlaps_of_pairs_are_torchvisions(seed):
    boxes, others = random_pairs(30, seed)
    iou, giou = paired_iou(boxes, others)
    assert_close(iou, box_iou(boxes, others).diagonal().nan_to_num(), atol=1e-6, rtol=1e-5)
    some = (boxes[:, 2:] > boxes[:, :2]).all(1)
    want = generalized_box_iou(boxes[some], others[some]).diagonal()
    assert_close(giou[some], want, atol=1e-6, rtol=1e-5)
    leading, _ = paired_iou(boxes.view(2, 3, 5, 4), others.view(2, 3, 5, 4))
    assert_close(leading.flatten(), iou)


def test_points_in_one_place_have_a_finite_overlap_and_gradient():
    point = torch.full((1, 4), .5, requires_grad=True)
    giou = paired_iou(point, point.detach())[1]
    giou.backward()
    assert giou.isfinite()
    assert point.grad.isfinite().all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4),
       st.sampled_from([TanhCoder(), SSDCoder()]), seeds)
def test_giou_loss_is_torchvisions_of_the_positive_anchors(counts, coder, seed):
    (classes, acts), boxes, labels = random_batch(counts, 189, 5, seed)
    anchors = Anchors(TANH[189].cxcywh, TANH[189].cell, coder)
    loss = MultiBoxLoss(anchors, 5, box_loss=GIoULoss(2.))
    ours = lambda p: loss.terms([classes, *p], boxes, labels)[1]

    def theirs(p):
        found, targets = loss.targets(boxes, labels)
        positive = found > 0
        value = generalized_box_iou_loss(anchors.decode(*p)[positive], targets[positive])
        return 2 * value.sum() / max(1, int(positive.sum()))

    both = [value_and_gradients(f, [acts]) for f in (ours, theirs)]
    assert_all_close(*both, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4),
       st.sampled_from([TanhCoder(), SSDCoder()]), seeds)
def test_varifocal_loss_is_plain(counts, coder, seed):
    "Anchor after anchor, as equation 2 of the paper has it."
    (classes, acts), boxes, labels = random_batch(counts, 189, 5, seed)
    anchors = Anchors(TANH[189].cxcywh, TANH[189].cell, coder)
    loss = MultiBoxLoss(anchors, 5, VarifocalLoss(.6, 1.5))

    def plain(preds):
        p, = preds
        found, targets = loss.targets(boxes, labels)
        decoded = anchors.decode(acts)
        total = 0 * p.sum()
        for i, a in (found >= 0).nonzero().tolist():
            x = p[i, a, 1:]
            q = torch.zeros(4)
            if found[i, a] > 0:
                iou = box_iou(decoded[i, a][None], targets[i, a][None])
                q[found[i, a] - 1] = iou.nan_to_num().item()
            weight = torch.where(q > 0, q, .6 * x.detach().sigmoid() ** 1.5)
            each = F.binary_cross_entropy_with_logits(x, q, reduction='none')
            total = total + (weight * each).sum()
        return total / max(1, int((found > 0).sum()))

    ours = lambda p: loss.terms([*p, acts], boxes, labels)[0]
    both = [value_and_gradients(f, [classes]) for f in (ours, plain)]
    assert_all_close(*both, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(2, 3), seeds)
def test_multibox_loss_of_a_batch_twice_as_large_is_the_same(counts, times, seed):
    (classes, acts), boxes, labels = random_batch([*counts, 1], 189, 5, seed)
    loss = MultiBoxLoss(SSD[189], 5)
    many = lambda t: t.repeat(times, *[1] * (t.ndim - 1))
    one = value_and_gradients(loss, (classes, acts), boxes, labels)
    preds = many(classes), many(acts)
    more = value_and_gradients(loss, preds, many(boxes), many(labels))
    assert_close(more[0], one[0])
    for m, o in zip(more[1:], one[1:]): assert_close(m * times, many(o))    # each has its share


def test_what_is_summed_and_what_is_not():
    "Training scales a smaller validation batch up only for a loss that grows with the batch."
    assert SSDLoss.reduction == 'sum'
    assert MultiBoxLoss.reduction == 'mean'


@pytest.mark.parametrize('gap', [None, .2])
def test_boxes_of_no_area_and_unlabelled_rows_count_for_nothing(gap):
    preds, boxes, labels = random_batch([2, 1], 189, 5, 0)
    loss = MultiBoxLoss(SSD[189], 5, neg_thresh=gap)
    want = value_and_gradients(loss, preds, boxes, labels)
    flat = torch.tensor([[[.2, .3, .2, .6]], [[.7, .7, .1, .1]]])
    with_flat = torch.cat([boxes, flat], 1), F.pad(labels, (0, 1), value=3)
    for g, w in zip(value_and_gradients(loss, preds, *with_flat), want): assert_close(g, w)
    unlabelled = torch.tensor([[[.2, .3, .4, .6]]] * 2)
    with_unlabelled = torch.cat([boxes, unlabelled], 1), F.pad(labels, (0, 1))
    got = value_and_gradients(loss, preds, *with_unlabelled)
    for g, w in zip(got, want): assert_close(g, w)


# ---- class losses

@given(st.integers(0, 20), seeds, st.sampled_from([2, 5, 21]))
def test_focal_is_torchvisions(n_pos, seed, n_classes):
    g = torch.Generator().manual_seed(seed)
    acts = torch.randn(3, 16, n_classes, generator=g) * 3
    labels = torch.zeros(48, dtype=torch.int64)
    labels[:n_pos] = torch.randint(1, n_classes, (n_pos,), generator=g)
    labels = labels[torch.randperm(48, generator=g)].view(3, 16)
    logits = acts[..., 1:]
    targets = F.one_hot(labels, n_classes)[..., 1:].float()
    for alpha, gamma in [(.25, 1), (.25, 2), (.6, 0), (.5, 1.5)]:
        total = sigmoid_focal_loss(logits, targets, alpha, gamma, 'sum')
        got = FocalLoss(alpha, gamma)(acts, labels)
        assert_close(got, total / n_classes, rtol=1e-5, atol=1e-6)
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction='sum') / n_classes
    assert_close(BCELoss()(acts, labels), bce, rtol=1e-5, atol=1e-6)
    assert_close(FocalLoss(.5, 0)(acts, labels) * 2, bce, rtol=1e-5, atol=1e-6)


def class_gradient(loss, acts, labels): return torch.autograd.grad(loss(acts, labels), acts)[0]


def some_logits(seed, n=16, n_classes=3, dtype=torch.float32, ignored=False):
    g = torch.Generator().manual_seed(seed)
    acts = (torch.randn(n, n_classes, generator=g) * 3).to(dtype).requires_grad_()
    return acts, torch.randint(-1 if ignored else 0, n_classes, (n,), generator=g)


@given(st.sampled_from([.1, .25, .6]), st.sampled_from([0, .1, .5, 1, 1.5, 2, 3]),
       st.sampled_from([2, 3, 21]), seeds)
def test_focal_weights_carry_no_gradient(alpha, gamma, n_classes, seed):
    acts, labels = some_logits(seed, n_classes=n_classes, ignored=True)
    got = class_gradient(FocalLoss(alpha, gamma), acts, labels)
    plain = lambda a, l: plain_class_loss(a, l, alpha, gamma)
    assert_close(got, class_gradient(plain, acts, labels), rtol=1e-4, atol=1e-6)
    assert (got[:, 0] == 0).all()


@pytest.mark.parametrize('gamma, alike', [(0, True), (1, False), (2, False)])
def test_torchvisions_focal_gradient_goes_through_the_weights(gamma, alike):
    "The same value, another gradient; with constant weights the gradients agree, too."
    acts, labels = some_logits(0)
    ours = FocalLoss(.25, gamma)

    def theirs(acts, labels):
        targets = F.one_hot(labels, 3)[:, 1:].float()
        return sigmoid_focal_loss(acts[:, 1:], targets, .25, gamma, 'sum') / 3
    assert_close(ours(acts, labels), theirs(acts, labels))
    gradients = class_gradient(ours, acts, labels), class_gradient(theirs, acts, labels)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6) == alike


@pytest.mark.parametrize('gamma', [1., 2.])
@given(st.floats(.02, .98), st.sampled_from([1, 0]))
def test_the_papers_gradient_is_up_to_one_plus_gamma_times_ours(gamma, p_t, target):
    "Lin et al. 2017, appendix B."
    p_t = torch.tensor(p_t, dtype=torch.float64)
    x = (p_t if target else 1 - p_t).logit().view(1).requires_grad_()
    t = torch.full_like(x, target)
    paper, = torch.autograd.grad(sigmoid_focal_loss(x, t, .25, gamma, 'sum'), x)
    acts = torch.stack([0 * x, x], -1)
    ours, = torch.autograd.grad(2 * FocalLoss(.25, gamma)(acts, torch.tensor([target])), x)
    assert_close(paper / ours, 1 - gamma * p_t * p_t.log().view(1) / (1 - p_t))
    assert 1 < paper / ours < 1 + gamma


def test_the_gradient_of_cross_entropy_is_that_of_finite_differences():
    acts, labels = some_logits(0, 6, 4, torch.float64, ignored=True)
    assert torch.autograd.gradcheck(lambda a: BCELoss()(a, labels), acts)
    seven = class_gradient(lambda a, l: 7 * BCELoss()(a, l), acts, labels)
    assert_close(seven, 7 * class_gradient(BCELoss(), acts, labels))


CLASS_LOSSES = [BCELoss(), FocalLoss(), FocalLoss(gamma=0), FocalLoss(gamma=.5),
                FocalLoss(gamma=3), HardNegativeLoss()]
each_class_loss = pytest.mark.parametrize('class_loss', CLASS_LOSSES, ids=repr)


@pytest.mark.parametrize('alpha, gamma', [(.5, 0), (.25, 1), (.25, .5), (.6, 3)])
@pytest.mark.parametrize('label', [0, 1, 2])
def test_activations_from_small_to_large(alpha, gamma, label):
    "Single precision against the plain loss in double, anchor by anchor."
    ours = FocalLoss(alpha, gamma)
    label = torch.tensor([label])
    for x in torch.linspace(-40, 40, 161):
        row = x.repeat(1, 3)
        got = value_and_gradients(lambda p: ours(p[0], label), [row])
        plain = lambda p: plain_class_loss(p[0], label, alpha, gamma)
        want = value_and_gradients(plain, [row.double()])
        assert_all_close([g.double() for g in got], want, rtol=1e-5, atol=2e-7)


@both
@pytest.mark.parametrize('big', [1e4, -1e4, 1e30])
@each_class_loss
def test_huge_activations_stay_finite(kind, big, class_loss):
    (classes, acts), boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    preds = [torch.full_like(classes, big), torch.full_like(acts, big)]
    loss = kind(ANCHORS[kind][16], 5, class_loss)
    value, by_class, by_box = value_and_gradients(loss, preds, boxes, labels)
    for t in (value, by_class, by_box): assert t.isfinite().all()
    assert by_class[..., 1:].abs().max() > 0        # wrong as they are, there is a way back


@each_class_loss
def test_nan_is_not_hidden(class_loss):
    "Training must stop; only the background column may hold anything."
    acts, labels = some_logits(0)
    with torch.no_grad(): acts[:, 0] = float('nan')
    want = class_loss(acts, labels)
    assert want.isfinite()
    assert class_gradient(class_loss, acts, labels).isfinite().all()
    with torch.no_grad(): acts[labels.argmax(), 1] = float('nan')
    assert class_loss(acts, labels).isnan()


# ---- anchors that do not count

@each_class_loss
@given(seed=seeds)
def test_ignored_anchors_count_for_nothing(class_loss, seed):
    acts, labels = some_logits(seed, ignored=True)
    counted = labels >= 0
    assert_close(class_loss(acts, labels), class_loss(acts[counted], labels[counted]))
    got = class_gradient(class_loss, acts, labels)
    assert (got[~counted] == 0).all()
    assert_close(got[counted], class_gradient(class_loss, acts, labels)[counted])
    assert class_loss(acts, torch.full_like(labels, -1)) == 0


def test_the_middle_ground_gets_no_gradient():
    preds, boxes, labels = random_batch([3, 0, 5], 189, 5, 1)
    target = match(SSD[189], boxes, labels, .5, .4).labels
    loss = MultiBoxLoss(SSD[189], 5)
    _, by_class, by_box = value_and_gradients(loss, preds, boxes, labels)
    assert (target == -1).sum() > 3
    assert (by_class[target == -1] == 0).all()
    assert (by_class[target >= 0][:, 1:] != 0).all()
    assert (by_box[target <= 0] == 0).all()
    assert (by_box[target > 0] != 0).any(-1).all()


# ---- hard negatives

@given(st.integers(1, 4), st.integers(1, 30), st.sampled_from([1, 3, 50]),
       st.sampled_from([2, 4]), st.booleans(), seeds)
def test_hard_negatives_are_plain(b, n, ratio, n_classes, ties, seed):
    g = torch.Generator().manual_seed(seed)
    acts = torch.randn(b, n, n_classes, generator=g) * 2
    if ties: acts = acts.round()
    acts.requires_grad_()
    labels = torch.randint(-9, n_classes, (b, n), generator=g).clamp(min=-1)
    labels = labels.where(torch.rand(b, n, generator=g) < .4, 0)
    got = HardNegativeLoss(ratio)(acts, labels)
    want = 0.
    for a, l in zip(acts, labels):
        want = want + plain_class_loss(a, plain_hardest(a, l, ratio), .5, 0) * 2
    assert_close(got, want, rtol=1e-5, atol=1e-6)
    if not ties:
        gradients = [torch.autograd.grad(value, acts)[0] for value in (got, want)]
        assert_close(*gradients, rtol=1e-4, atol=1e-6)
    kept = HardNegativeLoss(ratio).hardest(acts, labels)
    assert ((kept == labels) | ((labels == 0) & (kept == -1))).all()
    n_negative = (labels == 0).sum(1).tolist()
    n_positive = (labels > 0).sum(1).tolist()
    most = [min(neg, ratio * max(1, pos)) for neg, pos in zip(n_negative, n_positive)]
    assert (kept == 0).sum(1).tolist() == most


# ---- devices

def on_meta(*tensors): return [t.to('meta') for t in tensors]


@pytest.mark.parametrize('make', [
    *(partial(SSDLoss, class_loss=c) for c in CLASS_LOSSES),
    *(partial(MultiBoxLoss, class_loss=c) for c in [*CLASS_LOSSES, VarifocalLoss()]),
    *(partial(MultiBoxLoss, box_loss=b) for b in [OffsetLoss(), GIoULoss()])], ids=repr)
@pytest.mark.parametrize('counts', [[0, 0], [2, 0, 3]])
def test_no_step_asks_for_a_value(make, counts):
    """Tensors on `meta` have shapes and no values.

    So all that would make the host wait for a GPU fails: item, if, nonzero, a mask as index.
    """
    preds, boxes, labels = random_batch(counts, 16, 5, 0)
    preds = [p.requires_grad_() for p in on_meta(*preds)]
    loss = make(ANCHORS[make.func][16].to('meta'), 5)
    value = loss(preds, *on_meta(boxes, labels))
    value.backward()
    assert value.is_meta
    assert value.shape == ()
    assert all(p.grad.is_meta for p in preds)


WAITS = [lambda t, m: t.item(), lambda t, m: 1 if m else 0, lambda t, m: m.nonzero(),
         lambda t, m: t[m], lambda t, m: t.cpu(), lambda t, m: t + torch.ones(3)]


@pytest.mark.parametrize('waits', WAITS)
def test_the_check_above_would_notice(waits):
    one = torch.rand(1)
    with pytest.raises((RuntimeError, NotImplementedError)): waits(*on_meta(one, one > 0))


@both
def test_the_anchors_go_where_the_loss_goes(kind):
    given = ANCHORS[kind][16]
    loss = kind(given, 5)
    assert torch.equal(loss.anchors.cxcywh, given.cxcywh)
    assert torch.equal(loss.anchors.cell, given.cell)
    assert loss.anchors.coder == given.coder
    assert loss.state_dict() == {}              # nothing to save, so old weights still load
    preds, boxes, labels = random_batch([2, 0], 16, 5, 0)
    moved = kind(given, 5).to('meta')
    assert moved(on_meta(*preds), *on_meta(boxes, labels)).is_meta
    assert moved.anchors.cxcywh.is_meta
    assert moved.anchors.cell.is_meta
    assert not given.cxcywh.is_meta             # the given anchors stay
    # a call moves nothing: targets from elsewhere are an error
    with pytest.raises(RuntimeError): loss(on_meta(*preds), *on_meta(boxes, labels))
    assert not loss.anchors.cxcywh.is_meta


# ---- the whole loss

@both
@given(counts=st.lists(st.integers(0, 6), min_size=2, max_size=5), seed=seeds)
def test_padding_and_the_order_of_images_do_not_matter(kind, counts, seed):
    preds, boxes, labels = random_batch(counts, 16, 5, seed)
    loss = kind(ANCHORS[kind][16], 5)
    value = loss(preds, boxes, labels)
    padded = F.pad(boxes, (0, 0, 0, 7)), F.pad(labels, (0, 7))
    assert_close(loss(preds, *padded), value)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    assert_close(loss([p[order] for p in preds], boxes[order], labels[order]), value)


@both
def test_terms_add_up_and_arguments_stay(kind):
    preds, boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    loss = kind(ANCHORS[kind][16], 5)
    before = [t.clone() for t in (*preds, boxes, labels)]
    assert_close(sum(loss.terms(preds, boxes, labels)), loss(preds, boxes, labels))
    assert all(torch.equal(t, b) for t, b in zip((*preds, boxes, labels), before))


def test_box_l1_is_a_mean_over_positives_per_image():
    boxes = torch.rand(2, 3, 4)
    targets = torch.rand(2, 3, 4)
    positive = torch.tensor([[True, False, True], [False, False, False]])
    first = (boxes[0] - targets[0])[positive[0]].abs().mean()
    want = torch.stack([first, torch.tensor(0.)])
    assert_close(box_l1(boxes, targets, positive), want)


@both
def test_wrong_anchors_or_classes_say_what_to_do(kind):
    preds, boxes, labels = random_batch([1], 16, 5, 0)
    anchors = ANCHORS[kind]
    wrong = 'head predicts for 16 anchors, the loss has 189.*grid_sizes'
    with pytest.raises(ValueError, match=wrong): kind(anchors[189], 5)(preds, boxes, labels)
    wrong = r'head has 5 classes, the loss 6.*len\(vocab\)'
    with pytest.raises(ValueError, match=wrong): kind(anchors[16], 6)(preds, boxes, labels)
