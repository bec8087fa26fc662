import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from makers import random_batch
from plain import plain_class_loss, plain_hardest, plain_loss, plain_multibox_loss
from ssd_tutorial.anchors import SSDCoder, TanhCoder, make_anchors, match
from ssd_tutorial.loss import (
    BCELoss, FocalLoss, HardNegativeLoss, MultiBoxLoss, SSDLoss, box_l1
)

ANCHORS = {16: make_anchors(), 189: make_anchors((4, 2, 1), (.7, 1., 1.3), ((1., 1.), (1., .5), (.5, 1.)))}
seeds = st.integers(0, 2**31)


def value_and_gradients(loss, preds, *args):
    preds = [p.clone().requires_grad_() for p in preds]
    value = loss(preds, *args)
    value.backward()
    return value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in preds)


PLAIN = {SSDLoss: plain_loss, MultiBoxLoss: plain_multibox_loss}
both = pytest.mark.parametrize('kind', PLAIN)


def assert_loss_is_plain(kind, counts, n, n_classes, seed, m=None, anchors=None, **kwargs):
    preds, boxes, labels = random_batch(counts, n, n_classes, seed, m)
    anchors = anchors or ANCHORS[n]
    got = value_and_gradients(kind(anchors, n_classes), preds, boxes, labels)
    want = value_and_gradients(lambda p, b, l: PLAIN[kind](p, b, l, anchors, **kwargs), preds, boxes, labels)
    for g, w in zip(got, want): assert_close(g, w, rtol=1e-5, atol=1e-6)


@both
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), n=st.sampled_from([16, 189]), n_classes=st.sampled_from([2, 3, 21]), seed=seeds)
def test_loss_and_gradients_are_plain(kind, counts, n, n_classes, seed): assert_loss_is_plain(kind, counts, n, n_classes, seed)


@both
@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=3), seed=seeds)
def test_one_anchor_is_plain(kind, counts, seed): assert_loss_is_plain(kind, counts, 1, 2, seed, anchors=make_anchors((1,)))


@both
@pytest.mark.parametrize('m', [0, 1, 6])
@pytest.mark.parametrize('b', [1, 4])
def test_a_batch_without_objects_is_plain(kind, b, m): assert_loss_is_plain(kind, [0] * b, 16, 5, 0, m)


@both
def test_without_objects_the_box_activations_get_no_gradient(kind):
    preds, boxes, labels = random_batch([0, 0], 16, 5, 0, 1)
    value, by_class, by_box = value_and_gradients(kind(ANCHORS[16], 5), preds, boxes, labels)
    assert value.isfinite() and by_class.isfinite().all() and (by_class[..., 1:] != 0).all() and (by_box == 0).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.sampled_from([(.5, .5), (.6, .1), (.3, None)]),
       st.sampled_from([TanhCoder(), SSDCoder((.3, .5))]), st.sampled_from([FocalLoss(.6, 2), BCELoss(), HardNegativeLoss(2)]), seeds)
def test_multibox_loss_with_other_parts_is_plain(counts, thresholds, coder, class_loss, seed):
    preds, boxes, labels = random_batch(counts, 189, 5, seed)
    def plain_class(acts, target):
        if isinstance(class_loss, HardNegativeLoss): target = plain_hardest(acts, target, 2)
        if isinstance(class_loss, FocalLoss): return plain_class_loss(acts, target, .6, 2)
        return plain_class_loss(acts, target, .5, 0) * 2
    got = value_and_gradients(MultiBoxLoss(ANCHORS[189], 5, class_loss, coder, *thresholds), preds, boxes, labels)
    plain = lambda p, b, l: plain_multibox_loss(p, b, l, ANCHORS[189], *thresholds, plain_class, coder.encode)
    want = value_and_gradients(plain, preds, boxes, labels)
    for g, w in zip(got, want): assert_close(g, w, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(2, 3), seeds)
def test_multibox_loss_of_a_batch_twice_as_large_is_the_same(counts, times, seed):
    (classes, acts), boxes, labels = random_batch([*counts, 1], 189, 5, seed)
    loss, many = MultiBoxLoss(ANCHORS[189], 5), lambda t: t.repeat(times, *[1] * (t.ndim - 1))
    one = value_and_gradients(loss, (classes, acts), boxes, labels)
    more = value_and_gradients(loss, (many(classes), many(acts)), many(boxes), many(labels))
    assert_close(more[0], one[0])
    for m, o in zip(more[1:], one[1:]): assert_close(m * times, many(o))        # each copy has its share


def test_what_is_summed_and_what_is_not():
    "Training scales a smaller validation batch up only for a loss that grows with the batch."
    assert SSDLoss.summed and not MultiBoxLoss.summed


@pytest.mark.parametrize('gap', [None, .2])
def test_boxes_of_no_area_and_unlabelled_rows_count_for_nothing(gap):
    preds, boxes, labels = random_batch([2, 1], 189, 5, 0)
    loss = MultiBoxLoss(ANCHORS[189], 5, neg_thresh=gap)
    flat = torch.tensor([[[.2, .3, .2, .6]], [[.7, .7, .1, .1]]])
    want, got = (value_and_gradients(loss, preds, *t) for t in [(boxes, labels), (torch.cat([boxes, flat], 1), F.pad(labels, (0, 1), value=3))])
    for g, w in zip(got, want): assert_close(g, w)
    got = value_and_gradients(loss, preds, torch.cat([boxes, torch.tensor([[[.2, .3, .4, .6]]] * 2)], 1), F.pad(labels, (0, 1)))
    for g, w in zip(got, want): assert_close(g, w)


@given(st.integers(0, 20), seeds, st.sampled_from([2, 5, 21]))
def test_focal_is_torchvisions(n_pos, seed, n_classes):
    g = torch.Generator().manual_seed(seed)
    acts, labels = torch.randn(3, 16, n_classes, generator=g) * 3, torch.zeros(48, dtype=torch.int64)
    labels[:n_pos] = torch.randint(1, n_classes, (n_pos,), generator=g)
    labels = labels[torch.randperm(48, generator=g)].view(3, 16)
    yes = F.one_hot(labels, n_classes)[..., 1:].float()
    for alpha, gamma in [(.25, 1), (.25, 2), (.6, 0), (.5, 1.5)]:
        want = sigmoid_focal_loss(acts[..., 1:], yes, alpha=alpha, gamma=gamma, reduction='sum') / n_classes
        assert_close(FocalLoss(alpha, gamma)(acts, labels), want, rtol=1e-5, atol=1e-6)
    bce = F.binary_cross_entropy_with_logits(acts[..., 1:], yes, reduction='sum') / n_classes
    assert_close(BCELoss()(acts, labels), bce, rtol=1e-5, atol=1e-6)
    assert_close(FocalLoss(.5, 0)(acts, labels) * 2, bce, rtol=1e-5, atol=1e-6)


def class_gradient(loss, acts, labels): return torch.autograd.grad(loss(acts, labels), acts)[0]


def some_answers(seed, n=16, n_classes=3, dtype=torch.float32, ignored=False):
    g = torch.Generator().manual_seed(seed)
    acts = (torch.randn(n, n_classes, generator=g) * 3).to(dtype).requires_grad_()
    return acts, torch.randint(-1 if ignored else 0, n_classes, (n,), generator=g)


@given(st.sampled_from([.1, .25, .6]), st.sampled_from([0, .1, .5, 1, 1.5, 2, 3]), st.sampled_from([2, 3, 21]), seeds)
def test_focal_weights_carry_no_gradient(alpha, gamma, n_classes, seed):
    acts, labels = some_answers(seed, n_classes=n_classes, ignored=True)
    got = class_gradient(FocalLoss(alpha, gamma), acts, labels)
    assert_close(got, class_gradient(lambda a, l: plain_class_loss(a, l, alpha, gamma), acts, labels), rtol=1e-4, atol=1e-6)
    assert (got[:, 0] == 0).all()


@pytest.mark.parametrize('gamma, alike', [(0, True), (1, False), (2, False)])
def test_torchvisions_focal_gradient_goes_through_the_weights(gamma, alike):
    "The same value, another gradient; without weights that depend on the answers the gradients agree, too."
    acts, labels = some_answers(0)
    theirs = lambda a, l: sigmoid_focal_loss(a[:, 1:], F.one_hot(l, 3)[:, 1:].float(), .25, gamma, 'sum') / 3
    assert_close(FocalLoss(.25, gamma)(acts, labels), theirs(acts, labels))
    ours, other = class_gradient(FocalLoss(.25, gamma), acts, labels), class_gradient(theirs, acts, labels)
    assert torch.allclose(ours, other, rtol=1e-4, atol=1e-6) == alike


def test_the_gradient_of_cross_entropy_is_that_of_finite_differences():
    acts, labels = some_answers(0, 6, 4, torch.float64, ignored=True)
    assert torch.autograd.gradcheck(lambda a: BCELoss()(a, labels), acts)
    assert_close(class_gradient(lambda a, l: 7 * BCELoss()(a, l), acts, labels), 7 * class_gradient(BCELoss(), acts, labels))


CLASS_LOSSES = [BCELoss(), FocalLoss(), FocalLoss(gamma=0), FocalLoss(gamma=.5), FocalLoss(gamma=3), HardNegativeLoss()]


@pytest.mark.parametrize('alpha, gamma', [(.5, 0), (.25, 1), (.25, .5), (.6, 3)])
@pytest.mark.parametrize('label', [0, 1, 2])
def test_activations_from_small_to_large(alpha, gamma, label):
    "Single precision against the plain loss in double, answer by answer."
    acts, labels, loss = torch.linspace(-40, 40, 161)[:, None].repeat(1, 3), torch.full((161,), label), FocalLoss(alpha, gamma)
    for row, l in zip(acts, labels):
        got, want = (value_and_gradients(f, [a], l[None]) for f, a in [(lambda p, t: loss(p[0], t), row[None]),
                                                                       (lambda p, t: plain_class_loss(p[0], t, alpha, gamma), row[None].double())])
        for g, w in zip(got, want): assert_close(g.double(), w, rtol=1e-5, atol=2e-7)


@both
@pytest.mark.parametrize('big', [1e4, -1e4, 1e30])
@pytest.mark.parametrize('class_loss', CLASS_LOSSES, ids=repr)
def test_huge_activations_stay_finite(kind, big, class_loss):
    (classes, acts), boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    preds = [torch.full_like(classes, big), torch.full_like(acts, big)]
    value, by_class, by_box = value_and_gradients(kind(ANCHORS[16], 5, class_loss), preds, boxes, labels)
    for t in (value, by_class, by_box): assert t.isfinite().all()
    assert by_class[..., 1:].abs().max() > 0                                    # wrong as they are, there is a way back


@pytest.mark.parametrize('class_loss', CLASS_LOSSES, ids=repr)
def test_nan_is_not_hidden(class_loss):
    "Training must stop; only the background column may hold anything."
    acts, labels = some_answers(0)
    with torch.no_grad(): acts[:, 0] = float('nan')
    want = class_loss(acts, labels)
    assert want.isfinite() and class_gradient(class_loss, acts, labels).isfinite().all()
    with torch.no_grad(): acts[labels.argmax(), 1] = float('nan')
    assert class_loss(acts, labels).isnan()


# ---- anchors that do not count

@pytest.mark.parametrize('class_loss', CLASS_LOSSES, ids=repr)
@given(seed=seeds)
def test_ignored_anchors_count_for_nothing(class_loss, seed):
    acts, labels = some_answers(seed, ignored=True)
    asked = labels >= 0
    assert_close(class_loss(acts, labels), class_loss(acts[asked], labels[asked]))
    got = class_gradient(class_loss, acts, labels)
    assert (got[~asked] == 0).all()
    assert_close(got[asked], class_gradient(class_loss, acts, labels)[asked])
    assert class_loss(acts, torch.full_like(labels, -1)) == 0


def test_the_middle_ground_gets_no_gradient():
    preds, boxes, labels = random_batch([3, 0, 5], 189, 5, 1)
    m = match(ANCHORS[189], boxes, labels, .5, .4)
    _, by_class, by_box = value_and_gradients(MultiBoxLoss(ANCHORS[189], 5), preds, boxes, labels)
    assert (m.labels == -1).sum() > 3 and (by_class[m.labels == -1] == 0).all() and (by_class[m.labels >= 0][:, 1:] != 0).all()
    assert (by_box[m.labels <= 0] == 0).all() and (by_box[m.labels > 0] != 0).any(-1).all()


# ---- hard negatives

@given(st.integers(1, 4), st.integers(1, 30), st.sampled_from([1, 3, 50]), st.sampled_from([2, 4]), st.booleans(), seeds)
def test_hard_negatives_are_plain(b, n, ratio, n_classes, ties, seed):
    g = torch.Generator().manual_seed(seed)
    acts = torch.randn(b, n, n_classes, generator=g) * 2
    if ties: acts = acts.round()
    acts.requires_grad_()
    labels = (torch.randint(-9, n_classes, (b, n), generator=g)).clamp(min=-1).where(torch.rand(b, n, generator=g) < .4, 0)
    got = HardNegativeLoss(ratio)(acts, labels)
    want = sum(plain_class_loss(a, plain_hardest(a, l, ratio), .5, 0) * 2 for a, l in zip(acts, labels))
    assert_close(got, want, rtol=1e-5, atol=1e-6)
    if not ties: assert_close(torch.autograd.grad(got, acts)[0], torch.autograd.grad(want, acts)[0], rtol=1e-4, atol=1e-6)
    kept, positive = HardNegativeLoss(ratio).hardest(acts, labels), (labels > 0).sum(1)
    assert ((kept == labels) | ((labels == 0) & (kept == -1))).all()
    assert (kept == 0).sum(1).tolist() == [min(int((l == 0).sum()), ratio * max(1, p)) for l, p in zip(labels, positive.tolist())]


# ---- waiting for the device

def on_meta(*tensors): return [t.to('meta') for t in tensors]


@both
@pytest.mark.parametrize('class_loss', CLASS_LOSSES, ids=repr)
@pytest.mark.parametrize('counts', [[0, 0], [2, 0, 3]])
def test_no_step_asks_for_a_value(kind, class_loss, counts):
    "Tensors on `meta` have shapes and no values, so all that would make the host wait for a GPU (item, if, nonzero, a mask as index) fails."
    preds, boxes, labels = random_batch(counts, 16, 5, 0)
    preds = [p.requires_grad_() for p in on_meta(*preds)]
    value = kind(ANCHORS[16].to('meta'), 5, class_loss)(preds, *on_meta(boxes, labels))
    value.backward()
    assert value.is_meta and value.shape == () and all(p.grad.is_meta for p in preds)


@pytest.mark.parametrize('waits', [lambda t, m: t.item(), lambda t, m: 1 if m else 0, lambda t, m: m.nonzero(), lambda t, m: t[m],
                                   lambda t, m: t.cpu(), lambda t, m: t + torch.ones(3)])
def test_the_check_above_would_notice(waits):
    with pytest.raises((RuntimeError, NotImplementedError)): waits(*on_meta(torch.rand(1), torch.ones(1, dtype=torch.bool)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@both
def test_no_step_waits_for_cuda(kind):
    preds, boxes, labels = random_batch([2, 0, 3], 16, 5, 0)
    preds, boxes, labels = [p.cuda().requires_grad_() for p in preds], boxes.cuda(), labels.cuda()
    loss = kind(ANCHORS[16].to('cuda'), 5)
    loss(preds, boxes, labels).backward()                    # the first call may load libraries
    torch.cuda.set_sync_debug_mode('error')
    try: loss(preds, boxes, labels).backward()
    finally: torch.cuda.set_sync_debug_mode('default')


@both
@given(counts=st.lists(st.integers(0, 6), min_size=2, max_size=5), seed=seeds)
def test_padding_and_the_order_of_images_do_not_matter(kind, counts, seed):
    preds, boxes, labels = random_batch(counts, 16, 5, seed)
    loss, order = kind(ANCHORS[16], 5), torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    value = loss(preds, boxes, labels)
    assert_close(loss(preds, F.pad(boxes, (0, 0, 0, 7)), F.pad(labels, (0, 7))), value)
    assert_close(loss([p[order] for p in preds], boxes[order], labels[order]), value)


@both
def test_terms_add_up_and_arguments_stay(kind):
    preds, boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    loss, before = kind(ANCHORS[16], 5), [t.clone() for t in (*preds, boxes, labels)]
    assert_close(sum(loss.terms(preds, boxes, labels)), loss(preds, boxes, labels))
    assert all(torch.equal(t, b) for t, b in zip((*preds, boxes, labels), before))


def test_box_l1_is_a_mean_over_positives_per_image():
    boxes, targets = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    pos = torch.tensor([[True, False, True], [False, False, False]])
    assert_close(box_l1(boxes, targets, pos), torch.stack([(boxes[0] - targets[0])[pos[0]].abs().mean(), torch.tensor(0.)]))


@both
def test_wrong_anchors_or_classes_say_what_to_do(kind):
    preds, boxes, labels = random_batch([1], 16, 5, 0)
    with pytest.raises(ValueError, match='head answers for 16 anchors, the loss has 189.*grid_sizes'):
        kind(ANCHORS[189], 5)(preds, boxes, labels)
    with pytest.raises(ValueError, match=r'head has 5 classes, the loss 6.*len\(vocab\)'):
        kind(ANCHORS[16], 6)(preds, boxes, labels)
