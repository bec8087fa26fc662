import io
import json
import os

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torchvision.ops import nms

from makers import noise, speak_up
from plain import plain_iou, plain_suppress
from ssd_tutorial.anchors import SSDCoder, TanhCoder, make_anchors
from ssd_tutorial.augment import ResizeTransform
from ssd_tutorial.data import ObjectDataset, Vocab
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.predict import (
    Detections, Detector, class_scores, show_predictions, non_max_suppression
)
from ssd_tutorial.shapes import SHAPES
from ssd_tutorial.train import body_and_head

seeds = st.integers(0, 2**31)


# ---- one box per object

def random_answers(seed, b, n, k, steps=None):
    "Boxes `(b,n,4)` that overlap a lot and scores `(b,n,k)`; with `steps` both on a coarse scale, so that many are equal."
    g = torch.Generator().manual_seed(seed)
    corner, size, scores = torch.rand(b, n, 2, generator=g) * .4, torch.rand(b, n, 2, generator=g) * .5 + .1, torch.rand(b, n, k, generator=g)
    boxes = torch.cat([corner, corner + size], -1)
    return (boxes, scores) if steps is None else ((boxes * steps).round() / steps, (scores * steps).round() / steps)


def rows_of(boxes, found, labels, k):
    "Rows of `boxes` that were found, for each class, best first."
    number = {tuple(b): i for i, b in enumerate(boxes.tolist())}
    return {c: [number[tuple(b)] for b, l in zip(found.tolist(), labels.tolist()) if l == c] for c in range(1, k + 1)}


@given(st.integers(1, 3), st.integers(1, 25), st.integers(1, 3), st.sampled_from([0., .3, .9]), st.sampled_from([.05, .3, .5, 1.]), seeds)
def test_suppression_is_the_plain_loop_and_torchvisions(b, n, k, score_thresh, nms_thresh, seed):
    boxes, scores = random_answers(seed, b, n, k)
    got = non_max_suppression(boxes, scores, score_thresh, nms_thresh)
    assert len(got) == b
    for bx, sc, (found, labels, best) in zip(boxes, scores, got):
        rows = rows_of(bx, found, labels, k)
        assert rows == plain_suppress(bx, sc, score_thresh, nms_thresh)
        for c, r in rows.items():
            sure = (sc[:, c - 1] >= score_thresh).nonzero().flatten()
            assert r == sure[nms(bx[sure], sc[sure, c - 1], nms_thresh)].tolist()
        assert best.tolist() == sorted(best.tolist(), reverse=True)
        assert best.tolist() == [sc[bx.tolist().index(f), l - 1].item() for f, l in zip(found.tolist(), labels.tolist())]


@given(st.integers(1, 3), st.integers(1, 25), st.integers(1, 3), st.sampled_from([.25, .5]), seeds)
def test_with_ties_what_stays_does_not_overlap_and_what_goes_has_a_reason(b, n, k, nms_thresh, seed):
    boxes, scores = random_answers(seed, b, n, k, steps=8)
    got = non_max_suppression(boxes, scores, .25, nms_thresh)
    for bx, sc, (found, labels, best) in zip(boxes, scores, got):
        assert best.tolist() == sorted(best.tolist(), reverse=True)
        for c in range(1, k + 1):
            kept, s = found[labels == c], best[labels == c]
            assert (plain_iou(kept, kept).triu(1).nan_to_num() <= nms_thresh).all()
            for i in (sc[:, c - 1] >= .25).nonzero().flatten():
                iou = plain_iou(bx[i][None], kept)[0].nan_to_num()
                assert (kept == bx[i]).all(1).any() or ((iou > nms_thresh) & (s >= sc[i, c - 1])).any()
    again = non_max_suppression(boxes, scores, .25, nms_thresh)
    alone = [non_max_suppression(x[None], y[None], .25, nms_thresh)[0] for x, y in zip(boxes, scores)]
    for triples in zip(got, again, alone):
        for tensors in zip(*triples): assert torch.equal(tensors[0], tensors[1]) and torch.equal(tensors[0], tensors[2])


@pytest.mark.parametrize('n, k', [(300, 3), (700, 1), (90, 10)])
def test_a_large_batch_is_picture_for_picture_the_same(n, k):
    "torchvision takes another way from about a thousand boxes on."
    boxes, scores = random_answers(1, 5, n, k)
    for bx, sc, (found, labels, _) in zip(boxes, scores, non_max_suppression(boxes, scores, .01, .6, top=10000)):
        want = {c + 1: [i for i in nms(bx, sc[:, c], .6).tolist() if sc[i, c] >= .01] for c in range(k)}
        assert rows_of(bx, found, labels, k) == want
    for one, many in zip([non_max_suppression(x[None], y[None], .01)[0] for x, y in zip(boxes, scores)], non_max_suppression(boxes, scores, .01)):
        for a, b in zip(one, many): assert torch.equal(a, b)


def test_only_the_best_thousand_take_part():
    "Here no box overlaps another, so all of them stay."
    x, y = torch.meshgrid(torch.arange(40.), torch.arange(40.), indexing='ij')
    corner = torch.stack([x, y], -1).view(-1, 2) / 40
    boxes, scores = torch.cat([corner, corner + .02], 1)[None], torch.rand(1, 1600, 1)
    (found, _, best), = non_max_suppression(boxes, scores, 0., top=10000)
    assert torch.equal(best, scores.flatten().sort(descending=True).values[:1000]) and len(found) == 1000


def test_one_class_does_not_suppress_another_nor_one_picture_another():
    boxes = torch.tensor([.2, .2, .6, .6]).expand(3, 4, 4)
    for found, labels, best in non_max_suppression(boxes, torch.full((3, 4, 5), .7)):
        assert sorted(labels.tolist()) == [1, 2, 3, 4, 5] and len(found) == len(best) == 5


def test_the_limits_belong_to_those_that_stay():
    "Score and overlap exactly at the threshold stay; half of a box of which the other is a half."
    boxes, scores = torch.tensor([[[0., 0, .5, .5], [0, 0, .5, .25], [0, 0, .5, .375]]]), torch.tensor([[[.75], [.5], [.25]]])
    assert non_max_suppression(boxes, scores, .25, .5)[0][2].tolist() == [.75, .5]
    assert non_max_suppression(boxes, scores, .5, .5)[0][2].tolist() == [.75, .5]
    assert non_max_suppression(boxes, scores, .51, .5)[0][2].tolist() == [.75]
    assert non_max_suppression(boxes, scores, .25, .49)[0][2].tolist() == [.75]
    assert non_max_suppression(boxes, scores, .25, .75)[0][2].tolist() == [.75, .5, .25]


@pytest.mark.parametrize('top', [0, 1, 3, 1000])
def test_the_best_of_all_classes_up_to_the_limit(top):
    boxes, scores = random_answers(0, 2, 30, 3)
    for full, cut in zip(non_max_suppression(boxes, scores, 0., 1., 90), non_max_suppression(boxes, scores, 0., 1., top)):
        assert len(full[0]) == 90
        for f, c in zip(full, cut): assert torch.equal(f[:top], c)
    assert len(non_max_suppression(*random_answers(0, 1, 60, 3), 0., 1.)[0][0]) == 100


@pytest.mark.parametrize('b, n, k', [(1, 1, 1), (2, 5, 3), (3, 0, 2), (0, 5, 3), (0, 0, 0), (2, 5, 0)])
def test_nothing_to_keep(b, n, k):
    for found, labels, best in non_max_suppression(torch.zeros(b, n, 4), torch.zeros(b, n, k)):
        assert found.shape == (0, 4) and labels.shape == best.shape == (0,) and labels.dtype == torch.int64


def test_of_equal_scores_the_first_stays():
    "More anchors than take part, all boxes alike but two: of each group the row that comes first."
    boxes = torch.tensor([.2, .2, .6, .6]).repeat(1, 3000, 1) + torch.arange(3000)[None, :, None] * 1e-6
    boxes[0, [1500, 2500]] = torch.tensor([.7, .7, .9, .9])
    for scores in (torch.full((1, 3000, 1), .5), torch.where(torch.arange(3000) % 7 == 3, .5, .25)[None, :, None]):
        (found, _, best), = non_max_suppression(boxes[:, :900], scores[:, :900])
        assert torch.equal(found[0], boxes[0, scores[0, :900, 0].argmax()]) and best[0] == .5
    scores = torch.full((1, 3000, 1), .1)
    scores[0, 1500:1510] = scores[0, 2490:2510] = .5
    (found, _, _), = non_max_suppression(boxes, scores)
    assert torch.equal(found, boxes[0, [1500, 1501]])


def test_pictures_with_and_without_objects_in_one_batch():
    boxes, scores = random_answers(0, 3, 8, 2)
    scores[1] = 0
    got = non_max_suppression(boxes, scores, .5)
    assert [len(g[0]) > 0 for g in got] == [True, False, True]


def test_boxes_of_no_area_suppress_nothing():
    boxes = torch.tensor([[[.5, .5, .5, .5], [.5, .5, .5, .5], [.4, .4, .6, .6]]])
    assert len(non_max_suppression(boxes, torch.tensor([[[.9], [.8], [.7]]]))[0][0]) == 3


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
    return Detector(model, make_anchors(grid_sizes(model, 64), (.8, 1.6)), Vocab('abc', dict(a='letter a')), 64, SSDCoder((.1, .3)))


@pytest.fixture(scope='module', params=[article, several_grids])
def detector(request): return request.param()


def same(a, b): return np.array_equal(a.boxes, b.boxes) and a.labels == b.labels and np.array_equal(a.scores, b.scores)


def assert_alike(a, b, pixels=.05):
    "The same objects; neighbours with nearly equal scores may change places."
    assert len(a) == len(b) and sorted(a.labels) == sorted(b.labels)
    left = list(range(len(b)))
    for box, label, score in zip(a.boxes, a.labels, a.scores):
        near = [i for i in left if b.labels[i] == label and np.abs(b.boxes[i] - box).max() <= pixels and abs(b.scores[i] - score) <= 1e-3]
        assert near, (box, label, score)
        left.remove(near[0])


def test_a_detector_answers_alike_after_save_and_load(detector, tmp_path):
    file = detector.save(tmp_path/'new'/'d.pt')
    again, picture = Detector.load(str(file)), noise(tmp_path/'x.png', (90, 60))
    want = detector.predict(picture)
    assert len(want) and same(again.predict(picture), want) and again.coder == detector.coder
    assert again.vocab.names == ['bg', 'a', 'b', 'c'] and again.vocab.display(1) == 'letter a' and again.size == detector.size
    assert torch.equal(again.anchors.cxcywh, detector.anchors.cxcywh) and torch.equal(again.anchors.cell, detector.anchors.cell)
    assert again.model.config == detector.model.config and not again.model.training
    assert [p.name for p in file.parent.iterdir()] == ['d.pt']


@pytest.mark.parametrize('size, k, zooms, coder', [(64, 1, (1.,), TanhCoder()), (96, 2, (.7, 1.), SSDCoder())])
def test_other_grids_and_anchors_are_saved_too(tmp_path, size, k, zooms, coder):
    model = ssd_model('resnet10', 3, pretrained=False, k=k)
    d = Detector(model, make_anchors(grid_sizes(model, size), zooms), Vocab('ab'), size, coder)
    again, picture = Detector.load(d.save(tmp_path/'d.pt')), noise(tmp_path/'x.png')
    assert len(d.predict(picture, 0., 1.)) == 2 * len(d.anchors) and same(again.predict(picture, 0., 1.), d.predict(picture, 0., 1.))


def test_a_loaded_detector_does_not_run_in_mixed_precision(detector, tmp_path):
    detector.model.bf16 = True
    try: again = Detector.load(detector.save(tmp_path/'d.pt'))
    finally: detector.model.bf16 = False
    assert not again.model.bf16


def test_the_file_holds_nothing_but_tensors_and_plain_values(detector, tmp_path):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    assert d['vocab'] == ['bg', 'a', 'b', 'c'] and all(t.device.type == 'cpu' for t in d['weights'].values())
    assert d['coder'] == (dict(name='tanh') if detector.coder == TanhCoder() else dict(name='ssd', variances=(.1, .3)))


def test_files_that_are_no_detector(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pt: no such file'): Detector.load(tmp_path/'none.pt')
    (tmp_path/'text.pt').write_text('hello'); (tmp_path/'empty.pt').write_text('')
    torch.save(dict(weights=1), tmp_path/'other.pt'); torch.save([1], tmp_path/'list.pt'); torch.save(nn.Linear(1, 1), tmp_path/'module.pt')
    whole = detector.save(tmp_path/'d.pt').read_bytes()
    (tmp_path/'half.pt').write_bytes(whole[:len(whole) // 2])
    torch.save(dict(torch.load(tmp_path/'d.pt', weights_only=True), format='ssd_tutorial detector 1'), tmp_path/'old.pt')
    for name in ('text', 'empty', 'other', 'list', 'module', 'half', 'old'):
        with pytest.raises(ValueError, match=f'{name}.pt: not a detector of this version, or damaged; expected a file written by') as e:
            Detector.load(tmp_path/f'{name}.pt')
        assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize('key', ['model', 'weights', 'vocab', 'short', 'size', 'coder', 'cxcywh', 'cell'])
def test_a_file_that_lacks_a_part(detector, tmp_path, key):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    torch.save({k: v for k, v in d.items() if k != key}, tmp_path/'less.pt')
    with pytest.raises(ValueError, match=f"less.pt: .*'{key}' is missing") as e: Detector.load(tmp_path/'less.pt')
    assert len(str(e.value).splitlines()) == 1 and 'ssd_train' in str(e.value)


def test_weights_of_another_model_are_named_too(detector, tmp_path):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    torch.save(dict(d, weights=dict(list(d['weights'].items())[1:])), tmp_path/'less.pt')
    with pytest.raises(ValueError, match='less.pt: .*do not fit') as e: Detector.load(tmp_path/'less.pt')
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize('arch', ['mobilenet_v2', 'shufflenet_v2_x0_5'])
def test_bodies_that_pool_in_their_forward_method_are_saved_and_loaded(arch, tmp_path):
    model = speak_up(ssd_model(arch, 3, pretrained=False, maps=2))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for group in body_and_head(model) for p in group)
    d = Detector(model, make_anchors(grid_sizes(model, 64)), Vocab('ab'), 64, SSDCoder())
    picture = noise(tmp_path/'x.png')
    want = d.predict(picture, .01)
    assert len(want) and same(Detector.load(d.save(tmp_path/'d.pt')).predict(picture, .01), want)


def no_writing(monkeypatch, folder):
    "What root may write to, nobody else may."
    folder.mkdir(exist_ok=True)
    access = os.access
    monkeypatch.setattr(os, 'access', lambda p, mode: access(p, mode) and not (mode & os.W_OK and os.path.samefile(p, folder)))
    return folder


@pytest.mark.parametrize('method, ending', [('save', 'pt'), ('to_onnx', 'onnx')])
def test_a_place_that_cannot_be_written_to_is_refused_first(detector, tmp_path, monkeypatch, method, ending):
    (tmp_path/'file').write_text('mine')
    (tmp_path/f'folder.{ending}').mkdir()
    closed = no_writing(monkeypatch, tmp_path/'closed')
    monkeypatch.setattr(torch, 'save', None); monkeypatch.setattr(torch.onnx, 'export', None)
    for path in (tmp_path/'file'/f'd.{ending}', tmp_path/f'folder.{ending}', closed/f'd.{ending}'):
        with pytest.raises(ValueError, match=f'{path.name}: cannot be written') as e: getattr(detector, method)(path)
        assert len(str(e.value).splitlines()) == 1
    assert (tmp_path/'file').read_text() == 'mine' and sorted(p.name for p in tmp_path.rglob('*')) == ['closed', 'file', f'folder.{ending}']


def test_an_interrupted_save_leaves_the_old_file(detector, tmp_path, monkeypatch):
    whole = detector.save(tmp_path/'d.pt').read_bytes()
    def half(d, file): file.write_bytes(b'half'); raise KeyboardInterrupt
    monkeypatch.setattr(torch, 'save', half)
    for name in ('d.pt', 'new.pt'):
        with pytest.raises(KeyboardInterrupt): detector.save(tmp_path/name)
    assert [p.name for p in tmp_path.iterdir()] == ['d.pt'] and (tmp_path/'d.pt').read_bytes() == whole


def test_one_at_a_time_or_many_at_once(detector, tmp_path):
    "More than a batch of 32, of different sizes."
    files = [noise(tmp_path/f'{i}.png', (40 + i, 90 - i), i) for i in range(34)]
    found = detector.predict(files, .65)
    assert len(found) == 34 and len({d.image.size for d in found}) == 34
    for i in (0, 5, 31, 32, 33): assert_alike(detector.predict(files[i], .65), found[i])
    boxes, scores, pictures = detector.decode_predictions(files[:3])
    n = len(detector.anchors)
    assert boxes.shape == (3, n, 4) and scores.shape == (3, n, 3) and [p.size for p in pictures] == [(40 + i, 90 - i) for i in range(3)]
    for i in range(3):
        for one, many in zip(detector.decode_predictions(files[i:i + 1]), (boxes, scores)): assert_close(one[0], many[i], rtol=1e-4, atol=1e-4)
    assert (boxes >= 0).all() and (boxes <= 1).all() and (scores > 0).all() and (scores < 1).all()


def test_predictions_are_decoded_and_suppressed(detector, tmp_path):
    file = noise(tmp_path/'x.png', (90, 60))
    (boxes, scores, _), d = detector.decode_predictions([file]), detector.predict(file, .65, .4)
    want = plain_suppress(boxes[0], scores[0], .65, .4)
    got = {c: [i for i, l in enumerate(d.labels) if l == 'abc'[c - 1]] for c in want}
    assert sum(map(len, want.values())) == len(d) > 0
    for c in want: assert np.allclose(d.boxes[got[c]], boxes[0, want[c]] * torch.tensor([90, 60, 90, 60]), atol=1e-3)


def test_detections_are_a_picture_in_a_notebook(detector):
    d, open_figures = detector.predict(Image.new('RGB', (80, 50), (200, 30, 30)), .2), plt.get_fignums()
    png = d._repr_png_()
    assert png[:8] == b'\x89PNG\r\n\x1a\n' and plt.get_fignums() == open_figures
    for nothing in (Detections(np.zeros((0, 4)), [], np.zeros(0), Image.new('RGB', s)) for s in [(1, 1), (400, 20), (20, 400)]):
        assert nothing._repr_png_()[:4] == b'\x89PNG'


@pytest.mark.parametrize('size', [(10, 2000), (2000, 10), (1, 5000), (5000, 1)])
def test_a_very_long_picture_is_drawn_at_a_bounded_size(size):
    w, h = size
    png = Image.open(io.BytesIO(Detections(np.array([[0, 0, w, h]]) / 2., ['a'], np.ones(1), Image.new('RGB', size))._repr_png_()))
    assert max(png.size) < 2000 and min(png.size) > 1


def test_pictures_of_all_kinds_get_the_same_answer(detector, tmp_path):
    file = noise(tmp_path/'x.png', (90, 60))
    im = Image.open(file)
    array = np.array(im)
    floats = torch.from_numpy(array).permute(2, 0, 1) / 255
    kinds = [str(file), file, im, im.convert('RGBA'), array, floats, (floats * 255).round().byte()]
    answers = detector.predict(kinds)
    assert isinstance(answers, list) and len(answers) == 7 and len(answers[0]) > 0
    for a in answers: assert isinstance(a, Detections) and same(a, answers[0]) and a.image.size == (90, 60)
    assert detector.predict([]) == [] and len(detector.predict(tuple(kinds[:2]))) == 2
    assert same(*detector.predict([im.convert('L'), np.array(im.convert('L'))]))


@pytest.mark.parametrize('size', [(90, 60), (1, 1), (40, 300), (500, 375)])
def test_boxes_are_pixels_within_the_picture_best_first(detector, tmp_path, size):
    d = detector.predict(noise(tmp_path/'x.png', size), .2)
    assert d.boxes.shape == (len(d), 4) and len(d.labels) == len(d.scores) == len(d)
    assert (d.boxes >= 0).all() and (d.boxes <= np.array(size * 2) + 1e-3).all() and (d.boxes[:, 2:] >= d.boxes[:, :2]).all()
    assert (np.diff(d.scores) <= 0).all() and ((d.scores >= .2) & (d.scores <= 1)).all() and set(d.labels) <= set('abc')
    assert len(detector.predict(tmp_path/'x.png', 0., 1.)) == min(100, 3 * len(detector.anchors))


def test_boxes_follow_the_shape_of_the_picture(detector, tmp_path):
    "One grey everywhere: whatever its shape, the resized picture is the same."
    small, large = (detector.predict(Image.new('RGB', s, (90, 90, 90)), 0.) for s in [(100, 50), (300, 400)])
    assert len(small) and np.allclose(small.boxes / [100, 50, 100, 50], large.boxes / [300, 400, 300, 400], atol=1e-5)


def test_nothing_found(detector):
    d = detector.predict(np.zeros((20, 30, 3), np.uint8), 1.1)
    assert len(d) == 0 and d.boxes.shape == (0, 4) and d.scores.shape == (0,) and d.labels == [] and '0 detections' in repr(d)
    d.show(); plt.close()


def test_predicting_leaves_model_and_picture_as_they_were(detector):
    before, array = [p.clone() for p in detector.model.state_dict().values()], np.full((20, 30, 3), 90, np.uint8)
    first = detector.predict(array)
    assert same(first, detector.predict(array)) and (array == 90).all()
    assert all(torch.equal(a, b) for a, b in zip(before, detector.model.state_dict().values()))


def test_class_scores_ignore_the_background_column():
    acts = torch.tensor([[9., -1, 2], [9., -9, -8], [0, 0, -.1]])
    labels, scores = class_scores(acts, .5)
    assert labels.tolist() == [2, 0, 1] and torch.equal(scores, acts[:, 1:].sigmoid().amax(1))
    assert class_scores(acts.half()[None])[0].shape == (1, 3)


def test_show_predictions_of_fewer_pictures_than_asked_for(shapes16):
    vocab = Vocab(SHAPES)
    model, ds = ssd_model('resnet8', 9, pretrained=False), ObjectDataset(shapes16[:2], vocab, ResizeTransform(128))
    fig = show_predictions(model, make_anchors(), ds)
    assert len(fig.axes) == 6
    plt.close(fig)


# ---- ONNX

@pytest.fixture(scope='module')
def onnx_file(detector, tmp_path_factory):
    pytest.importorskip('onnxscript'); pytest.importorskip('onnxruntime')
    return detector.to_onnx(tmp_path_factory.mktemp('onnx')/'new'/'d.onnx')


def run_onnx(file, pixels):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    return session.run(['boxes', 'labels', 'scores'], {'image': pixels.transpose(2, 0, 1)[None] / np.float32(255)}), session


@pytest.mark.parametrize('thresh', [.65, .75])
def test_onnxruntime_finds_the_same_objects(detector, onnx_file, tmp_path, thresh):
    "Pictures of the detector's size, so that nothing but the file takes part."
    for seed in range(3):
        im = Image.open(noise(tmp_path/f'{seed}.png', (detector.size,) * 2, seed))
        (boxes, labels, scores), _ = run_onnx(onnx_file, np.asarray(im))
        sure, want = scores >= thresh, detector.predict(im, thresh)
        assert boxes.shape == (len(labels), 4) and (np.diff(scores) <= 0).all() and labels.min() >= 1
        assert 0 < len(want) < 100
        assert_alike(Detections(want.boxes / detector.size, want.labels, want.scores, None),
                     Detections(boxes[sure], [detector.vocab[i] for i in labels[sure]], scores[sure], None), 1e-3)


def test_onnxruntime_too_keeps_the_first_of_equal_scores(tmp_path):
    pytest.importorskip('onnxscript'); pytest.importorskip('onnxruntime')
    d = several_grids()
    for p in d.model[1].parameters(): p.data.zero_()           # all anchors say 0.5, for every class
    (boxes, labels, scores), _ = run_onnx(d.to_onnx(tmp_path/'d.onnx'), np.zeros((64, 64, 3), np.uint8))
    want = d.predict(np.zeros((64, 64, 3), np.uint8), .3)
    assert (scores == .5).all() and [d.vocab[i] for i in labels[:100]] == want.labels and np.allclose(boxes[:100] * 64, want.boxes, atol=1e-3)


def test_the_onnx_file_is_alone_and_tells_what_it_is(detector, onnx_file):
    assert [p.name for p in onnx_file.parent.iterdir()] == ['d.onnx']
    _, session = run_onnx(onnx_file, np.zeros((detector.size, detector.size, 3), np.uint8))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts['classes']) == detector.vocab.names and int(facts['size']) == detector.size
    assert session.get_inputs()[0].shape == [1, 3, detector.size, detector.size]


def test_export_leaves_the_detector_as_it_was_and_ignores_mixed_precision(tmp_path):
    pytest.importorskip('onnxscript'); pytest.importorskip('onnxruntime')
    d, picture = several_grids(), noise(tmp_path/'x.png', (64, 64))
    before, want = [p.clone() for p in d.model.state_dict().values()], d.predict(picture)
    d.model.bf16 = True
    (boxes, *_), _ = run_onnx(d.to_onnx(tmp_path/'d.onnx', .2), np.asarray(Image.open(picture)))
    assert d.model.bf16 and all(torch.equal(a, b) for a, b in zip(before, d.model.state_dict().values()))
    d.model.bf16 = False
    assert same(d.predict(picture), want)
    assert np.abs(boxes[:5] * 64 - d.predict(picture, .3, .2).boxes[:5]).max() < .064


def test_an_interrupted_export_leaves_the_old_file(detector, tmp_path, monkeypatch):
    pytest.importorskip('onnxscript')
    class Half:
        class model: metadata_props = {}
        def save(self, file, **kwargs): file.write_bytes(b'half'); raise OSError('the disk is full')
    monkeypatch.setattr(torch.onnx, 'export', lambda *args, **kwargs: Half())
    (tmp_path/'d.onnx').write_text('old')
    for name in ('d.onnx', 'new.onnx'):
        with pytest.raises(OSError, match='disk is full'): detector.to_onnx(tmp_path/name)
    assert [p.name for p in tmp_path.iterdir()] == ['d.onnx'] and (tmp_path/'d.onnx').read_text() == 'old'


def test_without_onnxscript_one_sentence_says_what_to_install(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnxscript', None)
    with pytest.raises(ImportError, match='to_onnx needs onnxscript: pip install'): detector.to_onnx(tmp_path/'d.onnx')
    assert list(tmp_path.iterdir()) == []
