import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from makers import random_batch
from plain import plain_loss
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.loss import BCELoss, FocalLoss, SSDLoss, box_l1

ANCHORS = {16: make_anchors(), 189: make_anchors((4, 2, 1), (.7, 1., 1.3), ((1., 1.), (1., .5), (.5, 1.)))}
seeds = st.integers(0, 2**31)


def value_and_gradients(loss, preds, *args):
    preds = [p.clone().requires_grad_() for p in preds]
    value = loss(preds, *args)
    value.backward()
    return value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in preds)


def assert_loss_is_plain(counts, n, n_classes, seed, m=None):
    preds, boxes, labels = random_batch(counts, n, n_classes, seed, m)
    got = value_and_gradients(SSDLoss(ANCHORS[n], n_classes), preds, boxes, labels)
    want = value_and_gradients(lambda p, b, l: plain_loss(p, b, l, ANCHORS[n]), preds, boxes, labels)
    for g, w in zip(got, want): assert_close(g, w, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.sampled_from([16, 189]), st.sampled_from([2, 3, 21]), seeds)
def test_loss_and_gradients_are_plain(counts, n, n_classes, seed): assert_loss_is_plain(counts, n, n_classes, seed)


@pytest.mark.parametrize('m', [0, 1, 6])
@pytest.mark.parametrize('b', [1, 4])
def test_a_batch_without_objects_is_plain(b, m): assert_loss_is_plain([0] * b, 16, 5, 0, m)


def test_without_objects_the_box_activations_get_no_gradient():
    preds, boxes, labels = random_batch([0, 0], 16, 5, 0, 1)
    assert (value_and_gradients(SSDLoss(ANCHORS[16], 5), preds, boxes, labels)[2] == 0).all()


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


def test_focal_weights_carry_no_gradient():
    acts, labels = torch.randn(16, 3, requires_grad=True), torch.randint(0, 3, (16,))
    FocalLoss()(acts, labels).backward()
    yes = F.one_hot(labels, 3).float()
    p = acts.detach().sigmoid()
    wrong = yes * (1 - p) + (1 - yes) * p
    want = (p - yes) * (.25 * yes + .75 * (1 - yes)) * wrong / 3
    assert_close(acts.grad[:, 1:], want[:, 1:])
    assert (acts.grad[:, 0] == 0).all()


@pytest.mark.parametrize('big', [1e4, -1e4])
@pytest.mark.parametrize('class_loss', [BCELoss(), FocalLoss(), FocalLoss(gamma=0), FocalLoss(gamma=.5)])
def test_huge_activations_stay_finite(big, class_loss):
    (classes, acts), boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    preds = [torch.full_like(classes, big), torch.full_like(acts, big)]
    for t in value_and_gradients(SSDLoss(ANCHORS[16], 5, class_loss), preds, boxes, labels): assert t.isfinite().all()


@given(st.lists(st.integers(0, 6), min_size=2, max_size=5), seeds)
def test_padding_and_the_order_of_images_do_not_matter(counts, seed):
    preds, boxes, labels = random_batch(counts, 16, 5, seed)
    loss, order = SSDLoss(ANCHORS[16], 5), torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    value = loss(preds, boxes, labels)
    assert_close(loss(preds, F.pad(boxes, (0, 0, 0, 7)), F.pad(labels, (0, 7))), value)
    assert_close(loss([p[order] for p in preds], boxes[order], labels[order]), value)


def test_terms_add_up_and_arguments_stay():
    preds, boxes, labels = random_batch([2, 0, 6], 16, 5, 0)
    loss, before = SSDLoss(ANCHORS[16], 5), [t.clone() for t in (*preds, boxes, labels)]
    assert_close(sum(loss.terms(preds, boxes, labels)), loss(preds, boxes, labels))
    assert all(torch.equal(t, b) for t, b in zip((*preds, boxes, labels), before))


def test_box_l1_is_a_mean_over_positives_per_image():
    boxes, targets = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    pos = torch.tensor([[True, False, True], [False, False, False]])
    assert_close(box_l1(boxes, targets, pos), torch.stack([(boxes[0] - targets[0])[pos[0]].abs().mean(), torch.tensor(0.)]))


def test_wrong_anchors_or_classes_say_what_to_do():
    preds, boxes, labels = random_batch([1], 16, 5, 0)
    with pytest.raises(ValueError, match='head answers for 16 anchors, the loss has 189.*grid_size'):
        SSDLoss(ANCHORS[189], 5)(preds, boxes, labels)
    with pytest.raises(ValueError, match=r'head has 5 classes, the loss 6.*len\(vocab\)'):
        SSDLoss(ANCHORS[16], 6)(preds, boxes, labels)
