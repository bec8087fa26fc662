import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close
from torchvision.ops import box_iou as torchvisions_iou

from ssd_tutorial.anchors import (
    CODERS, Anchors, DistributionCoder, SSDCoder, best_claim, box_around, centres_inside,
    make_anchors, side_distances
)
from ssd_tutorial.augment import ResizeTransform
from ssd_tutorial.boxes import cxcywh_to_xyxy
from ssd_tutorial.errors import miss_reasons
from ssd_tutorial.ladder import (
    AverageWeights, CIoULoss, DistanceCoder, MosaicTransform, atss_match, centre_match,
    soft_suppression
)
from ssd_tutorial.loss import (
    BCELoss, DistributionLoss, FocalLoss, GIoULoss, HardNegativeLoss, MultiBoxLoss,
    TaskAlignedLoss, VarifocalLoss, aligned_match
)
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.predict import Detector
from ssd_tutorial.data import Vocab
from ssd_tutorial.recipes import preset, recipe_learner
from ssd_tutorial.train import overfit_check

GRIDS = (8, 4, 2)
FREE = make_anchors(GRIDS, coder=DistributionCoder())
SIX = make_anchors(GRIDS, (.8, 1.4), ((1., 1.), (1., .5), (.5, 1.)), SSDCoder())
counts = st.lists(st.integers(0, 6), min_size=1, max_size=4)
seeds = st.integers(0, 2**31)


def batch(seed, counts, n_classes=4):
    "Boxes and labels, zero-padded."
    torch.manual_seed(seed)
    rows = max(counts)
    boxes = torch.zeros(len(counts), rows, 4)
    labels = torch.zeros(len(counts), rows, dtype=torch.long)
    for i, n in enumerate(counts):
        centre = .1 + .8 * torch.rand(n, 2)
        size = .03 + .6 * torch.rand(n, 2)
        boxes[i, :n] = cxcywh_to_xyxy(torch.cat([centre, size], 1)).clamp(0, 1)
        labels[i, :n] = torch.randint(1, n_classes, (n,))
    return boxes, labels


# ---- distances

@given(seeds, counts)
def test_distances_and_back(seed, counts):
    boxes, _ = batch(seed, [max(1, n) for n in counts])
    for box in boxes[:, 0]:
        every = box.expand(len(FREE), 4)
        assert_close(box_around(FREE, side_distances(FREE, every)), every, atol=1e-5, rtol=0)


@pytest.mark.parametrize('coder', [DistributionCoder(), DistanceCoder()])
def test_coders_without_shapes_reach_what_lies_around_a_centre(coder):
    anchors = Anchors(FREE.cxcywh, FREE.cell, coder)
    boxes, _ = batch(0, [6] * 20)
    for box in boxes.flatten(0, 1):
        rows = centres_inside(anchors, box[None])[0]
        rows &= side_distances(anchors, box).amax(1) < 14
        back = anchors.decode(anchors.encode(box.expand(len(anchors), 4)))[rows]
        assert_close(back, box.expand(len(back), 4), atol=1e-3, rtol=0)


def test_a_distance_is_shared_among_its_neighbours():
    one = Anchors(tensor([[.5, .5, .1, .1]]), tensor([[.1, .1]]), DistributionCoder(6))
    found = one.coder.probabilities(tensor([[.25, .5, .5, .8]]), one)[0]
    assert_close(found[0], tensor([0, 0, .5, .5, 0, 0]), atol=1e-5, rtol=0)   # 2.5 cells
    assert_close(found[1], tensor([1., 0, 0, 0, 0, 0]), atol=1e-5, rtol=0)
    assert_close(found[3], tensor([0, 0, 0, 1., 0, 0]), atol=1e-5, rtol=0)
    far = one.coder.probabilities(tensor([[-9., 0, 9, 9]]), one)
    assert_close(far.sum(-1), torch.ones(1, 4))


def test_which_centres_lie_inside_is_what_a_loop_finds():
    boxes, _ = batch(3, [5, 2])
    got = centres_inside(FREE, boxes)
    for i, some in enumerate(boxes):
        for j, (x1, y1, x2, y2) in enumerate(some.tolist()):
            want = [x1 < x < x2 and y1 < y < y2 for x, y, *_ in FREE.cxcywh.tolist()]
            assert got[i, j].tolist() == want


# ---- matching

def plain_atss(anchors, boxes, labels, k=9):
    "The paper's algorithm 1, object by object."
    found = [0] * len(anchors)
    best = [-1.] * len(anchors)
    overlap = torchvisions_iou(boxes, anchors.xyxy)
    sides = anchors.cell[:, 0].tolist()
    for i, box in enumerate(boxes):
        middle = (box[:2] + box[2:]) / 2
        distance = (anchors.cxcywh[:, :2] - middle).pow(2).sum(1).sqrt().tolist()
        candidates = []
        for side in sorted(set(sides)):
            rows = [j for j in range(len(anchors)) if sides[j] == side]
            of_cell = round(len(rows) * side**2)
            rows.sort(key=lambda j: distance[j])
            candidates += rows[:k * of_cell]
        ious = overlap[i, candidates]
        least = ious.mean() + ious.std()
        for j in candidates:
            x, y = anchors.cxcywh[j, :2].tolist()
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if overlap[i, j] >= least and inside and overlap[i, j] > best[j]:
                best[j] = overlap[i, j].item()
                found[j] = labels[i].item()
    return found


@given(seeds, counts)
def test_atss_is_what_a_loop_finds(seed, counts):
    boxes, labels = batch(seed, counts)
    # one anchor for each cell, so that no two are equally near by rounding of a sum
    anchors = make_anchors(GRIDS, (1.3,), coder=SSDCoder())
    got = atss_match(anchors, boxes, labels)
    for i, n in enumerate(counts):
        same = tensor(plain_atss(anchors, boxes[i, :n], labels[i, :n])) if n else 0
        differ = (got.labels[i] != same).sum()
        # cells that are equally far from an object may change places
        assert differ <= 2


def plain_centres(anchors, boxes, labels):
    "FCOS, section 3.2, cell by cell: the smallest object whose farthest side fits the grid."
    found = []
    sides = anchors.cell[:, 0].tolist()
    for (x, y, *_), side in zip(anchors.cxcywh.tolist(), sides):
        least = 0 if side == min(sides) else 2
        most = math.inf if side == max(sides) else 4
        fitting = []
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist()):
            distances = [x - x1, y - y1, x2 - x, y2 - y]
            if min(distances) > 0 and least <= max(distances) / side < most:
                fitting.append(((x2 - x1) * (y2 - y1), label))
        found.append(min(fitting)[1] if fitting else 0)
    return found


@given(seeds, counts)
def test_centres_are_matched_as_a_loop_does(seed, counts):
    boxes, labels = batch(seed, counts)
    got = centre_match(FREE, boxes, labels)
    for i, n in enumerate(counts):
        want = plain_centres(FREE, boxes[i, :n], labels[i, :n])
        assert got.labels[i].tolist() == want


def plain_aligned(anchors, boxes, labels, classes, acts):
    "Feng et al. 2021, section 3.2, for one image, object by object."
    found = torch.zeros(len(anchors), dtype=torch.long)
    wanted = torch.zeros(len(anchors))
    predicted = anchors.decode(acts[None])[0]
    overlap = torchvisions_iou(boxes, predicted)
    owner = [-1] * len(anchors)
    metric = torch.zeros(len(boxes), len(anchors))
    for i, box in enumerate(boxes):
        for j in range(len(anchors)):
            x, y = anchors.cxcywh[j, :2]
            if not (box[0] < x < box[2] and box[1] < y < box[3]): continue
            metric[i, j] = classes[j, labels[i]].sigmoid()**.5 * overlap[i, j]**6
        for j in metric[i].argsort(descending=True)[:10].tolist():
            if metric[i, j] <= 0: continue
            if owner[j] < 0 or overlap[i, j] > overlap[owner[j], j]: owner[j] = i
    for i in range(len(boxes)):
        rows = [j for j in range(len(anchors)) if owner[j] == i]
        if not rows: continue
        found[rows] = labels[i]
        wanted[rows] = metric[i, rows] / metric[i, rows].max() * overlap[i, rows].max()
    return found, wanted


@given(seeds, counts)
def test_the_network_chooses_as_a_loop_does(seed, counts):
    boxes, labels = batch(seed, counts)
    preds = torch.randn(len(counts), len(FREE), 4), 3 * torch.randn(len(counts), len(FREE), 64)
    got = aligned_match(FREE, boxes, labels, preds)
    for i, n in enumerate(counts):
        outputs = [p[i] for p in preds]
        found, wanted = plain_aligned(FREE, boxes[i, :n], labels[i, :n], *outputs)
        assert torch.equal(got.labels[i], found)
        assert_close(got.iou[i], wanted, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize('match', [
    atss_match, centre_match,
    lambda a, b, l: aligned_match(a, b, l, (torch.zeros(2, len(a), 3),
                                            torch.zeros(2, len(a), 64)))])
def test_padding_is_never_matched(match):
    for rows in (0, 1, 4):
        m = match(FREE, torch.zeros(2, rows, 4), torch.zeros(2, rows).long())
        assert m.labels.shape == (2, len(FREE)) and not m.labels.any()


def test_the_highest_claim_wins():
    claims = tensor([[.2, -1, .5], [.3, -1, .4]])
    m = best_claim(claims, tensor([7, 9]))
    assert m.labels.tolist() == [9, 0, 7] and m.index[[0, 2]].tolist() == [1, 0]


# ---- losses

@pytest.mark.parametrize('class_loss', [BCELoss(), FocalLoss(), HardNegativeLoss(),
                                        VarifocalLoss()])
@pytest.mark.parametrize('box_loss', [GIoULoss(), DistributionLoss()])
def test_the_aligned_loss_is_finite_and_teaches(class_loss, box_loss):
    boxes, labels = batch(1, [3, 0, 5])
    loss = TaskAlignedLoss(FREE, 4, class_loss, box_loss)
    preds = [torch.randn(3, len(FREE), n, requires_grad=True) for n in (4, 64)]
    terms = loss.terms(preds, boxes, labels)
    assert all(t.isfinite() for t in terms)
    sum(terms).backward()
    assert all(p.grad.isfinite().all() for p in preds)
    # an image without objects moves no box, and lowers every score that it changes
    assert not preds[1].grad[1].any() and preds[0].grad[1].min() >= 0


@pytest.mark.parametrize('counts', [[0, 0], [2, 0, 3]])
def test_no_step_of_the_aligned_loss_asks_for_a_value(counts):
    "As in test_loss.py: on `meta` all fails that would make the host wait for a GPU."
    boxes, labels = batch(0, counts)
    loss = TaskAlignedLoss(FREE.to('meta'), 4, box_loss=DistributionLoss())
    preds = [torch.zeros(len(counts), len(FREE), n, device='meta', requires_grad=True)
             for n in (4, 64)]
    value = loss(preds, boxes.to('meta'), labels.to('meta'))
    value.backward()
    assert value.is_meta and all(p.grad.is_meta for p in preds)


def test_the_aligned_loss_refuses_other_sizes():
    loss = TaskAlignedLoss(FREE, 4)
    boxes, labels = batch(1, [3])
    with pytest.raises(ValueError, match='the head predicts for 5 anchors, the loss has 84'):
        loss((torch.zeros(1, 5, 4), torch.zeros(1, 5, 64)), boxes, labels)


def test_the_distribution_loss_by_hand():
    one = Anchors(tensor([[.5, .5, .1, .1]]), tensor([[.1, .1]]), DistributionCoder(6))
    box = tensor([[[.25, .3, .6, .75]]])                # 2.5, 2, 1 and 2.5 cells away
    acts = torch.zeros(1, 1, 24)
    yes = tensor([[True]])
    # nothing is known: each of six distances has a sixth, whatever is wanted
    sides = DistributionLoss(weight=0)(one, acts, box, yes)
    assert sides.item() == pytest.approx(1.5 * math.log(6), rel=1e-5)
    giou = GIoULoss()(one, acts, box, yes)
    assert DistributionLoss()(one, acts, box, yes).item() == pytest.approx(sides + giou)
    half = DistributionLoss()(one, acts, box, .5 * yes)
    assert half.item() == pytest.approx((sides + giou) / 2)


def test_both_terms_are_divided_by_the_wanted_scores():
    boxes, labels = batch(1, [3, 5])
    preds = torch.randn(2, len(FREE), 4), FREE.encode(boxes[:, :1].expand(2, len(FREE), 4))
    loss = TaskAlignedLoss(FREE, 4, VarifocalLoss(), DistributionLoss())
    m = aligned_match(FREE, boxes, labels, preds)
    targets = torch.stack([b[i] for b, i in zip(boxes, m.index)])
    n = m.iou.sum()
    assert n > 1
    by_class, by_box = loss.terms(preds, boxes, labels)
    assert_close(by_class, VarifocalLoss()(preds[0], m.labels, m.iou) * 4 / n)
    assert_close(by_box, DistributionLoss()(FREE, preds[1], targets, m.iou) / n)


def test_a_head_of_other_numbers_is_told():
    boxes, labels = batch(1, [3])
    preds = torch.zeros(1, len(FREE), 4), torch.zeros(1, len(FREE), 4)
    with pytest.raises(ValueError, match=r'4 numbers for a box, .*model\(..., numbers=64\)'):
        TaskAlignedLoss(FREE, 4)(preds, boxes, labels)


def test_alpha_is_for_objects_also_if_their_target_is_soft():
    weights = FocalLoss(alpha=.25, gamma=0).weights(torch.zeros(3), tensor([0, .9, 1]))
    assert weights.tolist() == [.75, .25, .25]


def test_ciou_is_torchvisions_and_moves_only_the_positive():
    boxes, labels = batch(2, [4, 4])
    loss = MultiBoxLoss(SIX, 4, box_loss=CIoULoss(), matcher=atss_match)
    preds = [torch.randn(2, len(SIX), n, requires_grad=True) for n in (4, 4)]
    loss.terms(preds, boxes, labels)[1].backward()
    moved = preds[1].grad.abs().sum(-1) > 0
    assert torch.equal(moved, atss_match(SIX, boxes, labels).labels > 0) and moved.any()


# ---- suppression

def test_soft_suppression_by_hand():
    boxes = tensor([[0., 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    got = soft_suppression(boxes, tensor([.9, .8, .7]))
    # the second overlaps the first by a half; the third stands alone
    assert_close(got, tensor([.9, .8 * math.exp(-.25 / .5), .7]))
    assert soft_suppression(boxes[:0], tensor([])).shape == (0,)


@given(seeds)
def test_soft_suppression_is_the_papers_loop(seed):
    boxes, _ = batch(seed, [12])
    boxes = boxes[0]
    scores = torch.rand(12)
    want = scores.tolist()
    overlap = torchvisions_iou(boxes, boxes)
    waiting = list(range(12))
    while waiting:
        best = max(waiting, key=lambda i: want[i])
        waiting.remove(best)
        for i in waiting: want[i] *= math.exp(-overlap[best, i].item()**2 / .5)
    assert_close(soft_suppression(boxes, scores), tensor(want))


# ---- training

def test_a_mosaic_holds_four_images_in_their_places():
    mosaic = MosaicTransform(ResizeTransform(64), 64, seed=0)
    one_box = np.array([[16., 16, 48, 48]], np.float32)
    images = [np.full((64, 64, 3), i, np.uint8) for i in range(60)]
    seen = [mosaic(image, one_box, np.array([i])) for i, image in enumerate(images)]
    mixed = [item for item in seen if len(item[2]) == 4]
    assert 15 < len(mixed) < 45
    for image, boxes, labels in mixed:
        assert image.shape == (64, 64, 3)
        for (x1, y1, x2, y2), label in zip(boxes.astype(int), labels):
            assert (x2 - x1, y2 - y1) == (16, 16)
            assert (image[y1:y2, x1:x2] == label).all()       # each box lies on its own image
    mosaic.reseed(0)
    again = [mosaic(image, one_box, np.array([i])) for i, image in enumerate(images)]
    for a, b in zip(seen, again): assert np.array_equal(a[0], b[0])


def test_a_mosaic_leaves_out_what_has_left_its_image():
    outside = np.array([[60., 60, 100, 100]], np.float32)
    mosaic = MosaicTransform(ResizeTransform(64), 64, seed=0)
    items = [mosaic(np.zeros((64, 64, 3), np.uint8), outside, np.array([1])) for _ in range(40)]
    assert any(len(labels) == 0 for *_, labels in items)


def test_the_average_lies_between_first_and_last_weights():
    class Learn: model = torch.nn.Linear(1, 1, bias=False)
    average = AverageWeights(decay=.2)
    average.learn = Learn
    with torch.no_grad(): Learn.model.weight.fill_(1.)
    average.before_fit()
    for value in (1., 2., 3.):
        with torch.no_grad(): Learn.model.weight.fill_(value)
        average.after_step()
    average.after_fit()
    assert Learn.model.weight.item() == pytest.approx(.2 * (2 / 12 * 1 + 10 / 12 * 2) + .8 * 3)


# ---- a whole detector

@pytest.mark.parametrize('neck', [None, 'fpn'])
def test_a_detector_without_anchor_boxes_comes_back_from_its_file(tmp_path, neck):
    model = ssd_model('resnet8', 3, False, maps=3, neck=neck, numbers=64)
    anchors = make_anchors(grid_sizes(model, 64), coder=DistributionCoder())
    detector = Detector(model, anchors, Vocab(['a', 'b']), 64)
    again = Detector.load(detector.save(tmp_path/'d.pt'))
    image = torch.rand(3, 64, 64)
    for a, b in zip(detector.raw([image])[:2], again.raw([image])[:2]): assert torch.equal(a, b)
    assert again.anchors.coder == DistributionCoder()


def test_onnx_finds_the_same_without_anchor_boxes(tmp_path):
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    model = ssd_model('resnet8', 3, False, maps=3, neck='fpn', numbers=64)
    anchors = make_anchors(grid_sizes(model, 64), coder=DistributionCoder())
    detector = Detector(model, anchors, Vocab(['a', 'b']), 64)
    session = onnxruntime.InferenceSession(detector.to_onnx(tmp_path/'d.onnx'))
    image = (torch.rand(3, 64, 64) * 255).round() / 255
    boxes, labels, scores = session.run(None, {'image': image[None].numpy()})
    found = detector.predict(image, score_thresh=0)
    n = min(20, len(found))
    assert n > 5
    # bfloat16, where the CPU has it, rounds what `predict` finds
    assert_close(tensor(scores[:n]), tensor(found.scores[:n]), atol=2e-3, rtol=0)
    # so equal scores may change places: each box has one in the other list
    nearest = torchvisions_iou(tensor(found.boxes[:n]), 64 * tensor(boxes)).amax(1)
    assert nearest.min() > .95


@pytest.mark.parametrize('change', [
    dict(coder=dict(name='distribution', bins=8)), dict(coder=dict(name='ssd')),
    dict(coder=dict(name='distribution', bins='8')), dict(model=dict(numbers=10**9)),
    dict(model=dict(neck='x'))])
def test_a_file_whose_coder_or_head_does_not_fit_is_refused(tmp_path, change):
    model = ssd_model('resnet8', 3, False, maps=3, neck='fpn', numbers=64)
    anchors = make_anchors(grid_sizes(model, 64), coder=DistributionCoder())
    file = Detector(model, anchors, Vocab(['a', 'b']), 64).save(tmp_path/'d.pt')
    facts = torch.load(file, weights_only=True)
    facts['model'] |= change.get('model', {})
    facts['coder'] = change.get('coder', facts['coder'])
    torch.save(facts, file)
    with pytest.raises(ValueError, match='a damaged detector'): Detector.load(file)


@pytest.mark.parametrize('coder', [DistributionCoder(), DistanceCoder()])
def test_an_object_between_all_centres_has_no_anchor(coder):
    anchors = Anchors(FREE.cxcywh, FREE.cell, coder)
    truth = tensor([[.1, .1, .9, .9], [.13, .13, .18, .18]])
    boxes = torch.zeros(len(anchors), 4)
    scores = torch.zeros(len(anchors), 3)
    reasons = miss_reasons(boxes, scores, anchors, truth, tensor([1, 1]))
    assert reasons == ['poor box', 'no anchor']


def test_overfit_check_is_content_with_scores_that_follow_the_boxes(shapes16):
    vocab = Vocab.from_samples(shapes16)
    recipe = preset('anchor_free', 'shapes', arch='resnet8', size=64, bs=4, augment='none',
                    workers=0)
    learn = recipe_learner(shapes16[:12], shapes16[12:], vocab, recipe)
    assert overfit_check(learn).faults == []
    assert len(overfit_check(learn, steps=20, lr=0.).faults) == 2


def test_images_too_large_for_sixteen_distances_are_refused(shapes16):
    recipe = preset('anchor_free', 'shapes', size=1280)
    with pytest.raises(ValueError, match='size 1280: the coarsest grid .* has 40 cells'):
        recipe_learner(shapes16[:12], shapes16[12:], Vocab.from_samples(shapes16), recipe)


def test_a_coder_of_a_module_that_is_not_imported_is_named(tmp_path, monkeypatch):
    model = ssd_model('resnet8', 3, False, maps=3)
    anchors = make_anchors(grid_sizes(model, 64), coder=DistanceCoder())
    file = Detector(model, anchors, Vocab(['a', 'b']), 64).save(tmp_path/'d.pt')
    assert type(Detector.load(file).anchors.coder) is DistanceCoder
    monkeypatch.delitem(CODERS, 'distances')
    with pytest.raises(ValueError, match="its coder 'distances' is in a module to be imported"):
        Detector.load(file)
