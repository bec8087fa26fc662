import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torchvision.ops import batched_nms, nms

from makers import noise, samples, speak_up
from plain import plain_iou, plain_suppress
from ssd_tutorial.anchors import SSDCoder, TanhCoder, make_anchors
from ssd_tutorial.augment import ResizeTransform
from ssd_tutorial.data import ObjectDataset, Vocab
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.predict import (
    Detections, Detector, _as_image, class_scores, decode_predictions, non_max_suppression,
    show_predictions,
)
from ssd_tutorial.recipes import fit_recipe, preset, recipe_learner
from ssd_tutorial.shapes import SHAPES
from ssd_tutorial.train import body_and_head

SEEDS = st.integers(0, 2**31)
NO_DETECTOR = 'not a detector of this version, or damaged; expected a file written by'


def one_line(error): return len(str(error.value).splitlines()) == 1


# ---- one box per object

def random_predictions(seed, b, n, k, steps=None):
    """Boxes `(b,n,4)` that overlap a lot and scores `(b,n,k)`.

    With `steps` both are on a coarse scale, so that many are equal.
    """
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(b, n, 2, generator=g) * .4
    size = torch.rand(b, n, 2, generator=g) * .5 + .1
    scores = torch.rand(b, n, k, generator=g)
    boxes = torch.cat([corner, corner + size], -1)
    if steps is None: return boxes, scores
    return (boxes * steps).round() / steps, (scores * steps).round() / steps


def rows_of(boxes, kept, labels, k):
    "Rows of `boxes` that were kept, for each class, best first."
    number = {tuple(b): i for i, b in enumerate(boxes.tolist())}
    rows = {c: [] for c in range(1, k + 1)}
    for b, l in zip(kept.tolist(), labels.tolist()): rows[l].append(number[tuple(b)])
    return rows


def is_sorted(scores): return scores.tolist() == sorted(scores.tolist(), reverse=True)


def torchvisions_rows(boxes, scores, score_thresh, nms_thresh):
    enough = (scores >= score_thresh).nonzero().flatten()
    return enough[nms(boxes[enough], scores[enough], nms_thresh)].tolist()


@given(st.integers(1, 3), st.integers(1, 25), st.integers(1, 3), st.sampled_from([0., .3, .9]),
       st.sampled_from([.05, .3, .5, 1.]), SEEDS)
def test_suppression_is_the_plain_loop_and_torchvisions(
        b, n, k, score_thresh, nms_thresh, seed):
    boxes, scores = random_predictions(seed, b, n, k)
    got = non_max_suppression(boxes, scores, score_thresh, nms_thresh)
    assert len(got) == b
    for bx, sc, (kept, labels, best) in zip(boxes, scores, got):
        rows = rows_of(bx, kept, labels, k)
        assert rows == plain_suppress(bx, sc, score_thresh, nms_thresh)
        for c, r in rows.items():
            assert r == torchvisions_rows(bx, sc[:, c - 1], score_thresh, nms_thresh)
        assert is_sorted(best)
        own = [bx.tolist().index(f) for f in kept.tolist()]
        assert torch.equal(best, sc[own, labels - 1])


@given(st.integers(1, 40), st.integers(1, 4), st.sampled_from([None, 8]),
       st.sampled_from([.25, .5, .75]), SEEDS)
def test_with_ties_or_without_torchvisions_function_for_classes_keeps_the_same(
        n, k, steps, nms_thresh, seed):
    boxes, scores = random_predictions(seed, 1, n, k, steps)
    (kept, labels, best), = non_max_suppression(boxes, scores, 0., nms_thresh, 1000)
    anchor, column = (scores[0] >= 0).nonzero().T
    pairs = scores[0, anchor, column]
    rows = batched_nms(boxes[0, anchor].double(), pairs.double(), column, nms_thresh)
    assert torch.equal(kept, boxes[0, anchor[rows]])
    assert torch.equal(labels, column[rows] + 1)
    assert torch.equal(best, pairs[rows])


@given(st.integers(1, 3), st.integers(1, 25), st.integers(1, 3), st.sampled_from([.25, .5]),
       SEEDS)
def test_with_ties_what_stays_does_not_overlap_and_what_goes_has_a_reason(
        b, n, k, nms_thresh, seed):
    boxes, scores = random_predictions(seed, b, n, k, steps=8)
    got = non_max_suppression(boxes, scores, .25, nms_thresh)
    for bx, sc, (all_kept, labels, best) in zip(boxes, scores, got):
        assert is_sorted(best)
        for c in range(1, k + 1):
            kept = all_kept[labels == c]
            s = best[labels == c]
            assert (plain_iou(kept, kept).triu(1).nan_to_num() <= nms_thresh).all()
            for i in (sc[:, c - 1] >= .25).nonzero().flatten():
                iou = plain_iou(bx[i][None], kept)[0].nan_to_num()
                suppressed = (iou > nms_thresh) & (s >= sc[i, c - 1])
                assert (kept == bx[i]).all(1).any() or suppressed.any()


@given(st.integers(1, 3), st.integers(1, 25), st.integers(1, 3), st.sampled_from([.25, .5]),
       SEEDS)
def test_with_ties_an_image_gets_the_same_again_and_alone(b, n, k, nms_thresh, seed):
    boxes, scores = random_predictions(seed, b, n, k, steps=8)
    got = non_max_suppression(boxes, scores, .25, nms_thresh)
    again = non_max_suppression(boxes, scores, .25, nms_thresh)
    alone = [non_max_suppression(x[None], y[None], .25, nms_thresh)[0]
             for x, y in zip(boxes, scores)]
    for triples in zip(got, again, alone):
        for first, second, third in zip(*triples):
            assert torch.equal(first, second) and torch.equal(first, third)


@pytest.mark.parametrize('n, k', [(300, 3), (700, 1), (90, 10)])
def test_a_large_batch_is_image_for_image_the_same(n, k):
    "torchvision takes another way from about a thousand boxes on."
    boxes, scores = random_predictions(1, 5, n, k)
    got = non_max_suppression(boxes, scores, .01, .6, top=10000)
    for bx, sc, (kept, labels, _) in zip(boxes, scores, got):
        want = {}
        for c in range(k):
            rows = nms(bx, sc[:, c], .6).tolist()
            want[c + 1] = [i for i in rows if sc[i, c] >= .01]
        assert rows_of(bx, kept, labels, k) == want
    alone = [non_max_suppression(x[None], y[None], .01)[0] for x, y in zip(boxes, scores)]
    for one, many in zip(alone, non_max_suppression(boxes, scores, .01)):
        for a, b in zip(one, many): assert torch.equal(a, b)


def test_only_the_best_thousand_take_part():
    "Here no box overlaps another, so all of them stay."
    x, y = torch.meshgrid(torch.arange(40.), torch.arange(40.), indexing='ij')
    corner = torch.stack([x, y], -1).view(-1, 2) / 40
    boxes = torch.cat([corner, corner + .02], 1)[None]
    scores = torch.rand(1, 1600, 1)
    (kept, _, best), = non_max_suppression(boxes, scores, 0., top=10000)
    assert torch.equal(best, scores.flatten().sort(descending=True).values[:1000])
    assert len(kept) == 1000


def test_one_class_does_not_suppress_another_nor_one_image_another():
    boxes = torch.tensor([.2, .2, .6, .6]).expand(3, 4, 4)
    for kept, labels, best in non_max_suppression(boxes, torch.full((3, 4, 5), .7)):
        assert sorted(labels.tolist()) == [1, 2, 3, 4, 5] and len(kept) == len(best) == 5


def test_classes_stay_apart_however_large_their_boxes_are():
    "Even those that fill the whole image, and so touch its edges."
    (_, labels, _), = non_max_suppression(torch.tensor([[[0., 0, 1, 1]]]), torch.ones(1, 1, 80),
                                          nms_thresh=0.)
    assert labels.tolist() == list(range(1, 81))


def test_the_limits_belong_to_those_that_stay():
    "What is exactly at a threshold stays; the second box is a half of the first."
    boxes = torch.tensor([[[0., 0, .5, .5], [0, 0, .5, .25], [0, 0, .5, .375]]])
    scores = torch.tensor([[[.75], [.5], [.25]]])

    def kept(*thresholds): return non_max_suppression(boxes, scores, *thresholds)[0][2].tolist()

    assert kept(.25, .5) == [.75, .5]
    assert kept(.5, .5) == [.75, .5]
    assert kept(.51, .5) == [.75]
    assert kept(.25, .49) == [.75]
    assert kept(.25, .75) == [.75, .5, .25]


@pytest.mark.parametrize('top', [0, 1, 3, 1000])
def test_the_best_of_all_classes_up_to_the_limit(top):
    boxes, scores = random_predictions(0, 2, 30, 3)
    whole = non_max_suppression(boxes, scores, 0., 1., 90)
    for full, cut in zip(whole, non_max_suppression(boxes, scores, 0., 1., top)):
        assert len(full[0]) == 90
        for f, c in zip(full, cut): assert torch.equal(f[:top], c)
    by_default = non_max_suppression(*random_predictions(0, 1, 60, 3), 0., 1.)
    assert len(by_default[0][0]) == 100


@pytest.mark.parametrize('b, n, k', [(1, 1, 1), (2, 5, 3), (3, 0, 2), (0, 5, 3), (0, 0, 0),
                                     (2, 5, 0)])
def test_nothing_to_keep(b, n, k):
    for kept, labels, best in non_max_suppression(torch.zeros(b, n, 4), torch.zeros(b, n, k)):
        assert kept.shape == (0, 4) and labels.shape == best.shape == (0,)
        assert labels.dtype == torch.int64


def test_of_equal_scores_the_first_stays():
    "More anchors than take part, all boxes alike but two: of each group the first row."
    boxes = torch.tensor([.2, .2, .6, .6]).repeat(1, 3000, 1)
    boxes = boxes + torch.arange(3000)[None, :, None] * 1e-6
    boxes[0, [1500, 2500]] = torch.tensor([.7, .7, .9, .9])
    some = torch.where(torch.arange(3000) % 7 == 3, .5, .25)[None, :, None]
    for scores in (torch.full((1, 3000, 1), .5), some):
        (kept, _, best), = non_max_suppression(boxes[:, :900], scores[:, :900])
        assert torch.equal(kept[0], boxes[0, scores[0, :900, 0].argmax()]) and best[0] == .5
    scores = torch.full((1, 3000, 1), .1)
    scores[0, 1500:1510] = .5
    scores[0, 2490:2510] = .5
    (kept, _, _), = non_max_suppression(boxes, scores)
    assert torch.equal(kept, boxes[0, [1500, 1501]])


def test_images_with_and_without_objects_in_one_batch():
    boxes, scores = random_predictions(0, 3, 8, 2)
    scores[1] = 0
    got = non_max_suppression(boxes, scores, .5)
    assert [len(g[0]) > 0 for g in got] == [True, False, True]


def test_boxes_of_no_area_suppress_nothing():
    boxes = torch.tensor([[[.5, .5, .5, .5], [.5, .5, .5, .5], [.4, .4, .6, .6]]])
    scores = torch.tensor([[[.9], [.8], [.7]]])
    assert len(non_max_suppression(boxes, scores)[0][0]) == 3


# ---- detector

def article():
    "16 anchors; scores from 0.1 to 0.95."
    torch.manual_seed(3)
    model = speak_up(ssd_model('resnet8', 4, pretrained=False), 4)
    return Detector(model, make_anchors(), Vocab('abc', dict(a='letter a')), 128)


def several_grids():
    "160 anchors; scores from 0.1 to 0.85."
    torch.manual_seed(3)
    model = speak_up(ssd_model('resnet8', 4, pretrained=False, k=2, maps=2))
    anchors = make_anchors(grid_sizes(model, 64), (.8, 1.6), coder=SSDCoder((.1, .3)))
    return Detector(model, anchors, Vocab('abc', dict(a='letter a')), 64)


@pytest.fixture(scope='module', params=[article, several_grids])
def detector(request): return request.param()


def same(a, b):
    equal = [np.array_equal(a.boxes, b.boxes), np.array_equal(a.scores, b.scores)]
    return all(equal) and a.labels == b.labels


def assert_alike(a, b, pixels=.05):
    "The same objects; neighbours with nearly equal scores may change places."
    assert len(a) == len(b) and sorted(a.labels) == sorted(b.labels)
    left = list(range(len(b)))
    for box, label, score in zip(a.boxes, a.labels, a.scores):
        near = [i for i in left if b.labels[i] == label and abs(b.scores[i] - score) <= 1e-3
                and np.abs(b.boxes[i] - box).max() <= pixels]
        assert near, (box, label, score)
        left.remove(near[0])


def test_a_detector_predicts_alike_after_save_and_load(detector, tmp_path):
    file = detector.save(tmp_path/'new'/'d.pt')
    again = Detector.load(str(file))
    image = noise(tmp_path/'x.png', (90, 60))
    want = detector.predict(image)
    assert len(want) and same(again.predict(image), want)
    assert again.vocab.names == ['bg', 'a', 'b', 'c'] and again.vocab.display(1) == 'letter a'
    assert again.size == detector.size and again.anchors.coder == detector.anchors.coder
    assert torch.equal(again.anchors.cxcywh, detector.anchors.cxcywh)
    assert torch.equal(again.anchors.cell, detector.anchors.cell)
    assert again.model.config == detector.model.config and not again.model.training
    assert [p.name for p in file.parent.iterdir()] == ['d.pt']


@pytest.mark.parametrize('size, k, zooms, coder', [(64, 1, (1.,), TanhCoder()),
                                                   (96, 2, (.7, 1.), SSDCoder())])
def test_other_grids_and_anchors_are_saved_too(tmp_path, size, k, zooms, coder):
    model = ssd_model('resnet10', 3, pretrained=False, k=k)
    anchors = make_anchors(grid_sizes(model, size), zooms, coder=coder)
    d = Detector(model, anchors, Vocab('ab'), size)
    again = Detector.load(d.save(tmp_path/'d.pt'))
    image = noise(tmp_path/'x.png')
    want = d.predict(image, 0., 1., 1.)
    assert len(want) == 2 * len(anchors) and same(again.predict(image, 0., 1., 1.), want)


def test_the_coder_of_the_anchors_decides_what_is_predicted(detector, tmp_path):
    "Nothing beside the anchors knows how offsets are meant."
    image = noise(tmp_path/'x.png', (90, 60))
    coders = [TanhCoder(), SSDCoder(), SSDCoder((.1, .3))]
    raw = []
    for coder in coders:
        anchors = replace(detector.anchors, coder=coder)
        d = Detector(detector.model, anchors, detector.vocab, detector.size)
        raw.append(d.raw([image])[0])
        again = Detector.load(d.save(tmp_path/'d.pt'))
        assert again.anchors.coder == coder and torch.equal(again.raw([image])[0], raw[-1])
    assert not torch.equal(raw[0], raw[1]) and not torch.equal(raw[1], raw[2])


@dataclass(frozen=True)
class Mirrored(SSDCoder):
    "A coder of somebody else's."
    def decode(self, acts, anchors): return super().decode(-acts, anchors)


def test_a_coder_that_is_not_ours_is_not_saved_as_ours(detector, tmp_path):
    anchors = replace(detector.anchors, coder=Mirrored())
    d = Detector(detector.model, anchors, detector.vocab, detector.size)
    with pytest.raises(ValueError, match='d.pt: .*Mirrored.* cannot be saved'):
        d.save(tmp_path/'d.pt')
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    "A detector whose model was trained in mixed precision, for one epoch."
    train = samples(tmp_path_factory.mktemp('mixed'), objects=lambda i: 1 + i % 2)
    recipe = preset('ssd', 'shapes', epochs=1, bs=2, size=64, workers=0)
    vocab = Vocab('abc')
    learn = recipe_learner(train, train, vocab, recipe, dtype=torch.bfloat16)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe)
    return Detector(learn.model.cpu(), learn.loss_func.anchors, vocab, recipe.size)


def test_a_trained_model_refuses_anchors_with_another_coder(mixed):
    anchors = replace(mixed.anchors, coder=TanhCoder())
    with pytest.raises(ValueError, match='trained with SSDCoder.*use the anchors of the loss'):
        Detector(mixed.model, anchors, mixed.vocab, mixed.size)
    with pytest.raises(ValueError, match='trained with'):
        Detector(mixed.model, make_anchors(), mixed.vocab, mixed.size)


def test_a_detector_does_not_run_in_mixed_precision(mixed, tmp_path):
    "Whatever the training did, before and after the file it calculates with 32 bits."
    image = noise(tmp_path/'x.png')
    again = Detector.load(mixed.save(tmp_path/'d.pt'))
    want = mixed.predict(image, .001)
    assert len(want) and same(again.predict(image, .001), want)
    for raw in (mixed.raw([image]), again.raw([image])):
        assert raw[0].dtype == raw[1].dtype == torch.float32


def test_the_file_holds_nothing_but_tensors_and_plain_values(detector, tmp_path):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    assert d['vocab'] == ['bg', 'a', 'b', 'c']
    assert all(t.device.type == 'cpu' for t in d['weights'].values())
    ssd = dict(name='ssd', variances=(.1, .3))
    assert d['coder'] == (dict(name='tanh') if len(detector.anchors) == 16 else ssd)
    assert list(d) == 'format model vocab short size coder cxcywh cell weights'.split()
    assert d['format'] == 'ssd_tutorial detector 2'


def test_files_that_are_no_detector(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pt: no such file'):
        Detector.load(tmp_path/'none.pt')
    (tmp_path/'text.pt').write_text('hello')
    (tmp_path/'empty.pt').write_text('')
    torch.save(dict(weights=1), tmp_path/'other.pt')
    torch.save([1], tmp_path/'list.pt')
    torch.save(nn.Linear(1, 1), tmp_path/'module.pt')
    whole = detector.save(tmp_path/'d.pt').read_bytes()
    (tmp_path/'half.pt').write_bytes(whole[:len(whole) // 2])
    facts = torch.load(tmp_path/'d.pt', weights_only=True)
    d_format = facts['format'][:-1]
    for n in (1, 3): torch.save(dict(facts, format=f'{d_format}{n}'), tmp_path/f'{n}.pt')
    for n in (1, 3):
        with pytest.raises(ValueError, match=f'{n}.pt: written as .*reads .*2.*update'):
            Detector.load(tmp_path/f'{n}.pt')
    for name in ('text', 'empty', 'other', 'list', 'module', 'half'):
        with pytest.raises(ValueError, match=f'{name}.pt: {NO_DETECTOR}') as e:
            Detector.load(tmp_path/f'{name}.pt')
        assert one_line(e)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol:UserWarning')
@pytest.mark.parametrize('zipped', [True, False])
def test_damaged_bytes_are_refused_whatever_they_make_of_pickle(zipped, tmp_path):
    "A small file, changed in one to ten places, or cut."
    file = tmp_path/'d.pt'
    torch.save(dict(format='other', weights=torch.zeros(3)), file,
               _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.choice([1, 3, 10])):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged[:rng.integers(len(whole))] if i % 4 == 0 else damaged)
        with pytest.raises(ValueError, match=NO_DETECTOR): Detector.load(file)


def test_an_interruption_while_loading_is_not_taken_for_damage(detector, tmp_path, monkeypatch):
    file = detector.save(tmp_path/'d.pt')
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(torch, 'load', stop)
    with pytest.raises(KeyboardInterrupt): Detector.load(file)


@pytest.mark.parametrize('key', ['model', 'weights', 'vocab', 'short', 'size', 'coder',
                                 'cxcywh', 'cell'])
def test_a_file_that_lacks_a_part(detector, tmp_path, key):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    torch.save({k: v for k, v in d.items() if k != key}, tmp_path/'less.pt')
    with pytest.raises(ValueError, match=f"less.pt: .*'{key}' is missing") as e:
        Detector.load(tmp_path/'less.pt')
    assert one_line(e) and 'ssd_train' in str(e.value)


@pytest.mark.parametrize('part', [
    dict(weights={}), dict(model=dict(arch='nonsense', n_classes=4, k=1, maps=0)),
    dict(model=None), dict(vocab=['bg', 'a', 'a']), dict(coder=None), dict(cxcywh=None)])
def test_parts_that_do_not_fit_are_named_with_their_file(detector, tmp_path, part):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    torch.save(dict(d, **part), tmp_path/'other.pt')
    with pytest.raises(ValueError, match='other.pt: .*(do not fit|not those of)') as e:
        Detector.load(tmp_path/'other.pt')
    assert one_line(e)


NAN = float('nan')
LIES = {    # what a file's facts become, a piece of the message
    'size -1': (dict(size=-1), 'image size is -1'),
    'size 0': (dict(size=0), 'image size is 0'),
    'size text': (dict(size='64'), "image size is '64'"),
    'size none': (dict(size=None), 'image size is None'),
    'size nan': (dict(size=NAN), 'image size is nan'),
    'size huge': (dict(size=10**6), 'image size is 1000000'),
    'size other': (dict(size=320), 'its model gives'),
    'vocab short': (dict(vocab=['bg', 'a']), 'it has names for 2 classes'),
    'vocab text': (dict(vocab='abc'), 'it has names for'),
    'anchors few': (dict(cxcywh=torch.zeros(2, 4)), 'anchors, its model gives'),
    'cells few': (dict(cell=torch.zeros(2, 2)), 'anchors, its model gives'),
    'anchors list': (dict(cxcywh=[1., 2.]), 'do not fit')}


@pytest.mark.parametrize('lie', LIES)
def test_a_file_is_not_believed(detector, tmp_path, lie):
    change, said = LIES[lie]
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    torch.save(dict(d, **change), tmp_path/'lie.pt')
    with pytest.raises(ValueError, match=f'lie.pt: a damaged detector.*{said}') as e:
        Detector.load(tmp_path/'lie.pt')
    assert one_line(e)


def test_a_huge_number_of_classes_is_refused_before_it_fills_the_memory(detector, tmp_path):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    torch.save(dict(d, model=dict(d['model'], n_classes=10**9)), tmp_path/'huge.pt')
    with pytest.raises(ValueError, match='huge.pt: .*not those of its classes'):
        Detector.load(tmp_path/'huge.pt')


@pytest.mark.parametrize('part', ['cxcywh', 'weights'])
def test_numbers_that_are_none_are_refused(detector, tmp_path, part):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    numbers = d[part] if part == 'cxcywh' else next(iter(d[part].values()))
    numbers[0, 0] = NAN
    torch.save(d, tmp_path/'nan.pt')
    with pytest.raises(ValueError, match='nan.pt: .*not finite'):
        Detector.load(tmp_path/'nan.pt')


def test_a_flipped_byte_in_the_weights_is_found(detector, tmp_path):
    file = detector.save(tmp_path/'d.pt')
    whole = file.read_bytes()
    place = len(whole) // 2
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
    with pytest.raises(ValueError, match=NO_DETECTOR): Detector.load(file)


@pytest.mark.parametrize('field, value', [(38, b'\x10'), (46, b'x'), (42, b'\x01')])
def test_a_damaged_list_of_parts_is_found(detector, tmp_path, field, value):
    "By the checksum alone it is not: a part is a folder, has another name, lies elsewhere."
    file = detector.save(tmp_path/'d.pt')
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive: place = archive.start_dir + field
    for _ in range(9): place = whole.index(b'PK\x01\x02', place - field + 1) + field
    file.write_bytes(whole[:place] + value + whole[place + 1:])
    with pytest.raises(ValueError, match=NO_DETECTOR): Detector.load(file)


def test_a_small_file_that_becomes_a_large_one_is_not_unpacked(detector, tmp_path, monkeypatch):
    file = detector.save(tmp_path/'d.pt')
    with zipfile.ZipFile(file) as old: parts = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(tmp_path/'packed.pt', 'w', zipfile.ZIP_DEFLATED) as new:
        for name, content in parts.items(): new.writestr(name, content + b'\0' * 10**7)
    monkeypatch.setattr(torch, 'load', None)
    with pytest.raises(ValueError, match='packed.pt'): Detector.load(tmp_path/'packed.pt')


NOT_IMAGES = [np.zeros((4, 5, 3)), np.zeros((4, 5, 3), np.int64), np.zeros((4, 5, 1), np.uint8),
              np.zeros((2, 4, 5, 3), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((4, 5)),
              torch.zeros(2, 3, 4, 5), torch.zeros(4, 5), torch.full((3, 4, 5), 200.),
              torch.full((3, 4, 5), NAN), torch.zeros(3, 0, 5), torch.zeros(1, 4, 5),
              torch.full((3, 4, 5), 300), None, b'abc', [[1, 2], [3]]]


@pytest.mark.parametrize('image', NOT_IMAGES, ids=lambda x: f'{type(x).__name__}')
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError): _as_image(image)


@pytest.mark.parametrize('name', ['score_thresh', 'nms_thresh', 'across_thresh'])
@pytest.mark.parametrize('value', [NAN, -3, 2, None, '0.5', float('inf')])
def test_thresholds_are_shares(detector, name, value):
    image = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(ValueError, match=f'{name} .*from 0 to 1'):
        detector.predict(image, **{name: value})


def test_weights_of_another_model_are_named_too(detector, tmp_path):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    less = dict(list(d['weights'].items())[1:])
    torch.save(dict(d, weights=less), tmp_path/'less.pt')
    with pytest.raises(ValueError, match='less.pt: .*do not fit') as e:
        Detector.load(tmp_path/'less.pt')
    assert one_line(e)


@pytest.mark.parametrize('arch', ['mobilenet_v2', 'shufflenet_v2_x0_5'])
def test_bodies_that_pool_in_their_forward_method_are_saved_and_loaded(arch, tmp_path):
    model = speak_up(ssd_model(arch, 3, pretrained=False, maps=2))
    grouped = [p for group in body_and_head(model) for p in group]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in grouped)
    anchors = make_anchors(grid_sizes(model, 64), coder=SSDCoder())
    d = Detector(model, anchors, Vocab('ab'), 64)
    image = noise(tmp_path/'x.png')
    want = d.predict(image, .01)
    again = Detector.load(d.save(tmp_path/'d.pt'))
    assert len(want) and same(again.predict(image, .01), want)


def no_writing(monkeypatch, folder):
    "What root may write to, nobody else may."
    folder.mkdir(exist_ok=True)
    access = os.access

    def denied(path, mode):
        if mode & os.W_OK and os.path.samefile(path, folder): return False
        return access(path, mode)

    monkeypatch.setattr(os, 'access', denied)
    return folder


@pytest.mark.parametrize('method, ending', [('save', 'pt'), ('to_onnx', 'onnx')])
def test_a_place_that_cannot_be_written_to_is_refused_first(
        detector, tmp_path, monkeypatch, method, ending):
    (tmp_path/'file').write_text('mine')
    (tmp_path/f'folder.{ending}').mkdir()
    closed = no_writing(monkeypatch, tmp_path/'closed')
    monkeypatch.setattr(torch, 'save', None)
    monkeypatch.setattr(torch.onnx, 'export', None)
    for path in (tmp_path/'file'/f'd.{ending}', tmp_path/f'folder.{ending}',
                 closed/f'd.{ending}'):
        with pytest.raises(ValueError, match=f'{path.name}: cannot be written') as e:
            getattr(detector, method)(path)
        assert one_line(e)
    assert (tmp_path/'file').read_text() == 'mine'
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['closed', 'file', f'folder.{ending}']


def test_an_interrupted_save_leaves_the_old_file(detector, tmp_path, monkeypatch):
    whole = detector.save(tmp_path/'d.pt').read_bytes()

    def half(d, file):
        file.write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, 'save', half)
    for name in ('d.pt', 'new.pt'):
        with pytest.raises(KeyboardInterrupt): detector.save(tmp_path/name)
    assert [p.name for p in tmp_path.iterdir()] == ['d.pt']
    assert (tmp_path/'d.pt').read_bytes() == whole


def test_one_at_a_time_or_many_at_once(detector, tmp_path):
    "More than a batch of 32, of different sizes."
    files = [noise(tmp_path/f'{i}.png', (40 + i, 90 - i), i) for i in range(34)]
    detections = detector.predict(files, .65)
    assert len(detections) == 34 and len({d.image.size for d in detections}) == 34
    for i in (0, 5, 31, 32, 33):
        assert_alike(detector.predict(files[i], .65), detections[i])


def test_raw_gives_all_anchors(detector, tmp_path):
    files = [noise(tmp_path/f'{i}.png', (40 + i, 90 - i), i) for i in range(3)]
    boxes, scores, images = detector.raw(files)
    n = len(detector.anchors)
    assert boxes.shape == (3, n, 4) and scores.shape == (3, n, 3)
    assert [image.size for image in images] == [(40, 90), (41, 89), (42, 88)]
    for i in range(3):
        alone = detector.raw(files[i:i + 1])
        for one, many in zip(alone, (boxes, scores)):
            assert_close(one[0], many[i], rtol=1e-4, atol=1e-4)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (scores > 0).all() and (scores < 1).all()


def test_decode_predictions_bends_by_the_anchors_and_leaves_background_out():
    anchors = make_anchors((2,), coder=SSDCoder())
    logits = torch.randn(3, 4, 5)
    offsets = torch.randn(3, 4, 4) * 9
    boxes, scores = decode_predictions((logits, offsets), anchors)
    assert torch.equal(boxes, anchors.decode(offsets).clamp(0, 1))
    assert torch.equal(scores, logits.sigmoid()[..., 1:])


def test_predictions_are_decoded_and_suppressed(detector, tmp_path):
    file = noise(tmp_path/'x.png', (90, 60))
    boxes, scores, _ = detector.raw([file])
    d = detector.predict(file, .65, .4, 1.)
    want = plain_suppress(boxes[0], scores[0], .65, .4)
    assert sum(map(len, want.values())) == len(d) > 0
    for c, rows in want.items():
        got = [i for i, l in enumerate(d.labels) if l == 'abc'[c - 1]]
        pixels = boxes[0, rows] * torch.tensor([90, 60, 90, 60])
        assert np.allclose(d.boxes[got], pixels, atol=1e-3)


def test_detections_are_a_picture_in_a_notebook(detector):
    d = detector.predict(Image.new('RGB', (80, 50), (200, 30, 30)), .2)
    open_figures = plt.get_fignums()
    png = d._repr_png_()
    assert png[:8] == b'\x89PNG\r\n\x1a\n' and plt.get_fignums() == open_figures
    for size in [(1, 1), (400, 20), (20, 400)]:
        nothing = Detections(np.zeros((0, 4)), [], np.zeros(0), Image.new('RGB', size))
        assert nothing._repr_png_()[:4] == b'\x89PNG'


def test_detections_in_words():
    boxes = np.array([[1.4, 2, 3.6, 40], [0, 0, 9, 9]])
    d = Detections(boxes, ['cat', 'dog'], np.array([.876, .5]), Image.new('RGB', (50, 50)))
    assert repr(d) == '2 detections\n  cat 0.88 at (1, 2, 4, 40)\n  dog 0.50 at (0, 0, 9, 9)'


@pytest.mark.parametrize('size', [(10, 2000), (2000, 10), (1, 5000), (5000, 1)])
def test_a_very_long_image_is_drawn_at_a_bounded_size(size):
    w, h = size
    d = Detections(np.array([[0, 0, w, h]]) / 2., ['a'], np.ones(1), Image.new('RGB', size))
    png = Image.open(io.BytesIO(d._repr_png_()))
    assert max(png.size) < 2000 and min(png.size) > 1


def test_images_of_all_kinds_get_the_same_detections(detector, tmp_path):
    file = noise(tmp_path/'x.png', (90, 60))
    im = Image.open(file)
    array = np.array(im)
    floats = torch.from_numpy(array).permute(2, 0, 1) / 255
    in_bytes = (floats * 255).round().byte()
    kinds = [str(file), file, im, im.convert('RGBA'), array, floats, in_bytes]
    detections = detector.predict(kinds)
    assert isinstance(detections, list) and len(detections) == 7 and len(detections[0]) > 0
    for d in detections:
        assert isinstance(d, Detections) and same(d, detections[0]) and d.image.size == (90, 60)
    assert detector.predict([]) == [] and len(detector.predict(tuple(kinds[:2]))) == 2
    assert same(*detector.predict([im.convert('L'), np.array(im.convert('L'))]))


@pytest.mark.parametrize('size', [(90, 60), (1, 1), (40, 300), (500, 375)])
def test_boxes_are_pixels_within_the_image_best_first(detector, tmp_path, size):
    d = detector.predict(noise(tmp_path/'x.png', size), .2)
    assert d.boxes.shape == (len(d), 4) and len(d.labels) == len(d.scores) == len(d)
    assert (d.boxes >= 0).all() and (d.boxes <= np.array(size * 2) + 1e-3).all()
    assert (d.boxes[:, 2:] >= d.boxes[:, :2]).all()
    assert (np.diff(d.scores) <= 0).all() and set(d.labels) <= set('abc')
    assert ((d.scores >= .2) & (d.scores <= 1)).all()
    everything = detector.predict(tmp_path/'x.png', 0., 1., 1.)
    assert len(everything) == min(100, 3 * len(detector.anchors))


def test_boxes_follow_the_shape_of_the_image(detector):
    "One grey everywhere: whatever its shape, the resized image is the same."
    grey = [Image.new('RGB', size, (90, 90, 90)) for size in [(100, 50), (300, 400)]]
    small, large = (detector.predict(im, 0.) for im in grey)
    relative = large.boxes / [300, 400, 300, 400]
    assert len(small) and np.allclose(small.boxes / [100, 50, 100, 50], relative, atol=1e-5)


def test_nothing_detected(detector):
    d = detector.predict(np.zeros((20, 30, 3), np.uint8), 1)
    assert len(d) == 0 and d.boxes.shape == (0, 4) and d.scores.shape == (0,)
    assert d.labels == [] and repr(d) == '0 detections'
    d.show()
    plt.close()


def test_predicting_leaves_model_and_image_as_they_were(detector):
    before = [p.clone() for p in detector.model.state_dict().values()]
    array = np.full((20, 30, 3), 90, np.uint8)
    first = detector.predict(array)
    assert same(first, detector.predict(array)) and (array == 90).all()
    after = detector.model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_a_detector_needs_nothing_of_the_training():
    "Neither fastai nor what only evaluation needs is loaded."
    code = ('import sys, ssd_tutorial.predict; '
            'print([m for m in ("fastai", "pandas", "sklearn", "scipy") if m in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == '[]\n', done.stderr


def test_class_scores_ignore_the_background_column():
    acts = torch.tensor([[9., -1, 2], [9., -9, -8], [0, 0, -.1]])
    labels, scores = class_scores(acts, .5)
    assert labels.tolist() == [2, 0, 1] and torch.equal(scores, acts[:, 1:].sigmoid().amax(1))
    assert class_scores(acts.half()[None])[0].shape == (1, 3)


# ---- three columns

def frames(fig):
    "Corners of the boxes of each axes, in its pixels."
    corners = []
    for ax in fig.axes:
        boxes = [(*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height())
                 for p in ax.patches]
        corners.append(torch.tensor(boxes).view(-1, 4))
    plt.close(fig)
    return corners


def written(ax): return [t.get_text() for t in ax.texts]


def n_dots(ax): return sum(len(c.get_offsets()) for c in ax.collections)


def shapes_dataset(samples, size):
    return ObjectDataset(samples, Vocab(SHAPES), ResizeTransform(size))


def test_show_predictions_of_fewer_images_than_asked_for(shapes16):
    model = ssd_model('resnet8', 9, pretrained=False)
    fig = show_predictions(model, make_anchors(), shapes_dataset(shapes16[:2], 128))
    assert len(fig.axes) == 6
    plt.close(fig)


@pytest.mark.parametrize('share', [.3, .8])
def test_the_articles_figure(shapes16, share):
    "All anchors with number and class; without background; the boxes they are bent to."
    model = speak_up(ssd_model('resnet8', 9, pretrained=False), 2).eval()
    ds = shapes_dataset(shapes16[:1], 128)
    anchors = make_anchors()
    with torch.no_grad(): classes, acts = model(ds[0][0][None])
    # so high that this share of the anchors is background
    thresh = classes[0, :, 1:].sigmoid().amax(1).quantile(share).item()
    some = class_scores(classes[0], thresh)[0] > 0
    fig = show_predictions(model, anchors, ds, score_thresh=thresh)
    texts = [written(ax) for ax in fig.axes]
    assert [t.split()[0] for t in texts[0]] == [str(i) for i in range(16)]
    assert sum(t.endswith('-') for t in texts[0]) == int((~some).sum()) > 0
    assert len(texts[1]) == len(texts[2]) == int(some.sum()) > 0
    everything, anchors_left, boxes = frames(fig)
    assert_close(everything, anchors.xyxy * 128)
    assert_close(anchors_left, anchors.xyxy[some] * 128)
    assert_close(boxes, anchors.decode(acts)[0, some].clamp(0, 1) * 128)


@pytest.mark.parametrize('coder', [SSDCoder(), TanhCoder()])
def test_many_anchors_are_drawn_by_their_own_coder_and_background_as_dots(shapes16, coder):
    model = speak_up(ssd_model('resnet8', 9, pretrained=False, k=2, maps=2), 5).eval()
    anchors = make_anchors(grid_sizes(model, 64), (.8, 1.6), coder=coder)
    ds = shapes_dataset(shapes16[:1], 64)
    with torch.no_grad(): classes, acts = model(ds[0][0][None])
    thresh = classes[0, :, 1:].sigmoid().amax(1).quantile(.8).item()
    some = class_scores(classes[0], thresh)[0] > 0
    fig = show_predictions(model, anchors, ds, score_thresh=thresh)
    dots = [n_dots(ax) for ax in fig.axes]
    assert dots == [int((~some).sum()), 0, 0]
    for ax in fig.axes:
        assert ax.get_xlim() == (0, 64) and ax.get_ylim() == (64, 0)
        assert 1 <= len(ax.texts) <= 8
    first, second, boxes = frames(fig)
    assert_close(first, anchors.xyxy[some] * 64)
    assert_close(second, first)
    assert_close(boxes, anchors.decode(acts)[0, some].clamp(0, 1) * 64)


# ---- ONNX

@pytest.fixture(scope='module')
def onnx_file(detector, tmp_path_factory):
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    return detector.to_onnx(tmp_path_factory.mktemp('onnx')/'new'/'d.onnx')


@pytest.fixture
def exact(monkeypatch):
    "Makes a detector predict with 32 bits, as the exported file does."
    monkeypatch.setattr('ssd_tutorial.model.fast_dtype', lambda device: torch.float32)
    return lambda d: Detector(d.model, d.anchors, d.vocab, d.size)


def run_onnx(file, pixels):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    image = pixels.transpose(2, 0, 1)[None] / np.float32(255)
    return session.run(['boxes', 'labels', 'scores'], {'image': image}), session


@pytest.mark.parametrize('thresh', [.65, .75])
def test_onnxruntime_finds_the_same_objects(detector, onnx_file, tmp_path, thresh, exact):
    "Images of the detector's size, so that nothing but the file takes part."
    for seed in range(3):
        im = Image.open(noise(tmp_path/f'{seed}.png', (detector.size,) * 2, seed))
        (boxes, labels, scores), _ = run_onnx(onnx_file, np.asarray(im))
        enough = scores >= thresh
        want = exact(detector).predict(im, thresh)
        assert boxes.shape == (len(labels), 4) and (np.diff(scores) <= 0).all()
        assert labels.min() >= 1 and 0 < len(want) < 100
        names = [detector.vocab[i] for i in labels[enough]]
        got = Detections(boxes[enough], names, scores[enough], None)
        assert_alike(replace(want, boxes=want.boxes / detector.size), got, 1e-3)


def test_onnxruntime_too_keeps_the_first_of_equal_scores(tmp_path, exact):
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    d = several_grids()
    for p in d.model[1].parameters(): p.data.zero_()           # all scores are 0.5
    black = np.zeros((64, 64, 3), np.uint8)
    (boxes, labels, scores), _ = run_onnx(d.to_onnx(tmp_path/'d.onnx'), black)
    want = exact(d).predict(black, .3)
    # of a hundred at most
    n = len(want)
    assert (scores == .5).all() and [d.vocab[i] for i in labels[:n]] == want.labels
    assert np.allclose(boxes[:n] * 64, want.boxes, atol=1e-3)


def test_the_onnx_file_is_alone_and_tells_what_it_is(detector, onnx_file):
    assert [p.name for p in onnx_file.parent.iterdir()] == ['d.onnx']
    # no paths of the machine that wrote it
    assert str(Path(torch.__file__).parent).encode() not in onnx_file.read_bytes()
    _, session = run_onnx(onnx_file, np.zeros((detector.size, detector.size, 3), np.uint8))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts['classes']) == detector.vocab.names
    assert int(facts['size']) == detector.size
    assert session.get_inputs()[0].shape == [1, 3, detector.size, detector.size]


def test_export_leaves_the_detector_as_it_was(tmp_path):
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    d = several_grids()
    image = noise(tmp_path/'x.png', (64, 64))
    before = [p.clone() for p in d.model.state_dict().values()]
    want = d.predict(image)
    (boxes, *_), _ = run_onnx(d.to_onnx(tmp_path/'d.onnx', .2), np.asarray(Image.open(image)))
    after = d.model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert same(d.predict(image), want)
    assert np.abs(boxes[:5] * 64 - d.predict(image, .3, .2).boxes[:5]).max() < .064


def test_a_model_trained_in_mixed_precision_is_exported_with_32_bits(mixed, tmp_path, exact):
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    image = noise(tmp_path/'x.png', (64, 64))
    file = mixed.to_onnx(tmp_path/'d.onnx')
    (_, _, scores), _ = run_onnx(file, np.asarray(Image.open(image)))
    best = exact(mixed).raw([image])[1].max().item()
    assert scores.dtype == np.float32 and scores[0] == pytest.approx(best, rel=1e-4)


class Half:
    "An export that fails while it is written."
    class model:
        metadata_props = {}
        functions = {}
        graph = ()

    def save(self, file, **kwargs):
        file.write_bytes(b'half')
        raise OSError('the disk is full')


def test_an_interrupted_export_leaves_the_old_file(detector, tmp_path, monkeypatch):
    pytest.importorskip('onnxscript')
    monkeypatch.setattr(torch.onnx, 'export', lambda *args, **kwargs: Half())
    (tmp_path/'d.onnx').write_text('old')
    for name in ('d.onnx', 'new.onnx'):
        with pytest.raises(OSError, match='disk is full'): detector.to_onnx(tmp_path/name)
    assert [p.name for p in tmp_path.iterdir()] == ['d.onnx']
    assert (tmp_path/'d.onnx').read_text() == 'old'


def test_without_onnxscript_one_sentence_says_what_to_install(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ImportError, match='to_onnx needs onnxscript: pip install'):
        detector.to_onnx(tmp_path/'d.onnx')
    assert list(tmp_path.iterdir()) == []
