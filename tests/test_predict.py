import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from makers import noise
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.augment import resize_transform
from ssd_tutorial.data import ObjectDataset, Vocab
from ssd_tutorial.model import SSDHead, flatten_cells, grid_size, ssd_model
from ssd_tutorial.predict import Detections, Detector, class_scores, show_predictions
from ssd_tutorial.shapes import SHAPES


@pytest.fixture(scope='module')
def detector():
    "Untrained, but with an opinion."
    torch.manual_seed(3)
    model = ssd_model('resnet10', 4, pretrained=False)
    model[1].classes.bias.data.zero_()
    for out in (model[1].classes, model[1].boxes): out.weight.data.mul_(20)
    return Detector(model, make_anchors(), Vocab('abc', dict(a='letter a')), 128)


def same(a, b): return np.array_equal(a.boxes, b.boxes) and a.labels == b.labels and np.array_equal(a.scores, b.scores)


def test_a_detector_answers_alike_after_save_and_load(detector, tmp_path):
    file = detector.save(tmp_path/'new'/'d.pt')
    again, picture = Detector.load(str(file)), noise(tmp_path/'x.png', (90, 60))
    want = detector.predict(picture)
    assert len(want) and same(again.predict(picture), want)
    assert again.vocab.names == ['bg', 'a', 'b', 'c'] and again.vocab.display(1) == 'letter a' and again.size == 128
    assert torch.equal(again.anchors.cxcywh, detector.anchors.cxcywh) and torch.equal(again.anchors.cell, detector.anchors.cell)
    assert [p.name for p in file.parent.iterdir()] == ['d.pt']


@pytest.mark.parametrize('size, k, zooms', [(64, 1, (1.,)), (128, 2, (.7, 1.))])
def test_other_grids_and_anchors_are_saved_too(tmp_path, size, k, zooms):
    model = ssd_model('resnet10', 3, pretrained=False, k=k)
    d = Detector(model, make_anchors((grid_size(model, size),), zooms), Vocab('ab'), size)
    again, picture = Detector.load(d.save(tmp_path/'d.pt')), noise(tmp_path/'x.png')
    assert len(d.predict(picture, 0.)) == len(d.anchors) and same(again.predict(picture, 0.), d.predict(picture, 0.))


def test_the_file_holds_nothing_but_tensors_and_plain_values(detector, tmp_path):
    d = torch.load(detector.save(tmp_path/'d.pt'), weights_only=True)
    assert d['vocab'] == ['bg', 'a', 'b', 'c'] and all(t.device.type == 'cpu' for t in d['weights'].values())


def test_files_that_are_no_detector(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pt: no such file'): Detector.load(tmp_path/'none.pt')
    (tmp_path/'text.pt').write_text('hello'); (tmp_path/'empty.pt').write_text('')
    torch.save(dict(weights=1), tmp_path/'other.pt'); torch.save([1], tmp_path/'list.pt'); torch.save(nn.Linear(1, 1), tmp_path/'module.pt')
    whole = detector.save(tmp_path/'d.pt').read_bytes()
    (tmp_path/'half.pt').write_bytes(whole[:len(whole) // 2])
    for name in ('text', 'empty', 'other', 'list', 'module', 'half'):
        with pytest.raises(ValueError, match=f'{name}.pt: not a detector, or damaged; expected a file written by'):
            Detector.load(tmp_path/f'{name}.pt')


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
    assert len(detector.predict(tmp_path/'x.png', 0.)) == 16


def test_boxes_follow_the_shape_of_the_picture(detector, tmp_path):
    "One grey everywhere: whatever its shape, the resized picture is the same."
    small, large = (detector.predict(Image.new('RGB', s, (90, 90, 90)), 0.) for s in [(100, 50), (300, 400)])
    assert np.allclose(small.boxes / [100, 50, 100, 50], large.boxes / [300, 400, 300, 400], atol=1e-5)


def test_nothing_found(detector):
    d = detector.predict(np.zeros((20, 30, 3), np.uint8), 1.1)
    assert len(d) == 0 and d.boxes.shape == (0, 4) and d.scores.shape == (0,) and d.labels == [] and '0 detections' in repr(d)
    d.show()


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


@pytest.mark.parametrize('k, zooms', [(1, (1.,)), (3, (.7, 1., 1.3))])
def test_row_i_of_the_model_sees_the_cell_of_anchor_i(k, zooms):
    "With all but the middle of every kernel gone, a row depends on its own cell only."
    model = ssd_model('resnet10', 3, pretrained=False, k=k).eval()
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            middle = torch.zeros_like(m.weight)
            middle[..., m.kernel_size[0] // 2, m.kernel_size[1] // 2] = 1
            m.weight.data = m.weight.data.abs() * middle
    x, centres = torch.rand(1, 3, 128, 128, requires_grad=True), make_anchors(zooms=zooms).cxcywh[:, :2]
    for outputs in model(x):
        assert outputs.shape[1] == len(centres) == 16 * k
        for row, centre in zip(outputs[0], centres):
            g, = torch.autograd.grad(row.sum(), x, retain_graph=True)
            seen = g.abs().sum((0, 1)).nonzero().float().flip(1)    # x, y of the pixels with an influence
            assert len(seen) and torch.equal((seen.mean(0) / 32).round(), (centre * 4).floor())


def test_flatten_cells_puts_x_slowest_and_the_anchors_of_a_cell_together():
    b, k, n, h, w = 2, 3, 5, 4, 6
    x = torch.arange(b * k * n * h * w).view(b, k * n, h, w)
    want = [[[x[i, a * n + j, row, col].item() for j in range(n)] for col in range(w) for row in range(h) for a in range(k)]
            for i in range(b)]
    assert flatten_cells(x, k).tolist() == want


def test_the_head_first_says_nothing():
    classes, acts = SSDHead(21, 2, nin=32).eval()(torch.randn(2, 32, 7, 7))
    assert classes.shape == (2, 32, 21) and acts.shape == (2, 32, 4)
    assert (classes + 3).abs().max() < 1.5 and class_scores(classes, .5)[0].max() == 0


def test_grid_size_leaves_the_model_as_it_was():
    model = ssd_model('resnet10', 3, pretrained=False, k=2)
    before = [p.clone() for p in model.state_dict().values()]
    assert [grid_size(model, s) for s in (64, 128, 224)] == [2, 4, 7] and model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values()))
    assert grid_size(model.eval(), 64) == 2 and not model.training


def test_show_predictions_of_fewer_pictures_than_asked_for(shapes16):
    vocab = Vocab(SHAPES)
    model, ds = ssd_model('resnet10', 9, pretrained=False), ObjectDataset(shapes16[:2], vocab, resize_transform(128))
    fig = show_predictions(model, make_anchors(), ds)
    assert len(fig.axes) == 6
