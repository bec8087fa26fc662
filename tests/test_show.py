import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from ssd_tutorial.data import Vocab, normalize, pad_objects
from ssd_tutorial.show import (
    COLORS, draw_rect, draw_text, show_batch, show_boxes, show_image, show_item, show_matches
)

BOXES = [[5, 5, 20, 20], [10, 12, 40, 30], [1, 2, 60, 46]]
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
TENSOR = normalize(torch.from_numpy(PIXELS).permute(2, 0, 1) / 255)
VOCAB = Vocab(['cat', 'cattle'], short=dict(cattle='cow'))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def drawn(ax):
    ax.figure.canvas.draw()
    return ax.get_images()[0].get_array()


def texts(ax): return [t.get_text() for t in ax.texts]


def corners(patch):
    x, y = patch.get_xy()
    return [x, y, x + patch.get_width(), y + patch.get_height()]


def rects(ax): return [corners(p) for p in ax.patches]


# ---- images

@pytest.mark.parametrize('image', [
    PIXELS, Image.fromarray(PIXELS), TENSOR, TENSOR.clone().requires_grad_(), TENSOR.double()])
def test_an_image_of_any_kind(image):
    shown = np.asarray(drawn(show_image(image)), dtype=float)
    if not isinstance(image, (np.ndarray, Image.Image)): shown = shown * 255
    assert np.abs(shown - PIXELS).max() < .01


def test_half_precision_and_values_out_of_range():
    "matplotlib knows no bfloat16, and warns of values outside of [0,1]."
    for image in (TENSOR.bfloat16(), TENSOR.half(), TENSOR * 5):
        shown = drawn(show_image(image))
        assert shown.dtype == np.float32 and shown.min() >= 0 and shown.max() <= 1


def test_a_grey_image_and_axes_that_are_there():
    ax = plt.figure().subplots()
    assert show_image(Image.fromarray(PIXELS).convert('L'), ax, 'grey') is ax
    assert drawn(ax).shape == (48, 64) and ax.get_title() == 'grey' and not ax.axison
    assert show_image(PIXELS) is not ax


# ---- boxes

@pytest.mark.parametrize('kind', [list, np.array, torch.tensor])
def test_boxes_of_any_kind(kind):
    ax = show_boxes(PIXELS, kind(BOXES), ['a', 'b', 'c'], kind([.9, .8, .25]))
    assert rects(ax) == BOXES
    assert texts(ax) == ['0 a\n0.90', '1 b\n0.80', '2 c\n0.25']
    drawn(ax)


@pytest.mark.parametrize('boxes', [[], np.zeros((0, 4)), torch.zeros(0, 4)])
def test_no_boxes(boxes):
    for scores in (None, []):
        ax = show_boxes(PIXELS, boxes, [], scores)
        assert not ax.patches and not ax.texts and drawn(ax).shape == PIXELS.shape


def test_what_is_left_out_keeps_its_number_and_colour():
    ax = show_boxes(PIXELS, BOXES, ['a', 'bg', 'c'])
    assert rects(ax) == [BOXES[0], BOXES[2]] and texts(ax) == ['0 a', '2 c']
    assert [p.get_edgecolor()[:3] for p in ax.patches] == [COLORS[0], COLORS[2]]


def test_the_threshold_makes_background():
    names = ['a', 'b', 'bg']
    ax = show_boxes(PIXELS, BOXES, names, [.5, .49, .9], thresh=.5)
    assert texts(ax) == ['0 a\n0.50']
    ax = show_boxes(PIXELS, BOXES, names, [.5, .49, .9], thresh=.5, bg_label='none')
    assert texts(ax) == ['0 a\n0.50', '1 none', '2 none']
    ax = show_boxes(PIXELS, BOXES, names, [.5, .49, .9], bg_label='', numbers=False)
    assert texts(ax) == ['a\n0.50', 'b\n0.49', '']


def test_more_boxes_than_colours():
    n = 2 * len(COLORS) + 1
    ax = show_boxes(PIXELS, BOXES[:1] * n, ['a'] * n)
    colors = [p.get_edgecolor()[:3] for p in ax.patches]
    assert colors == [*COLORS, *COLORS, COLORS[0]]


def test_boxes_beyond_the_image_do_not_change_what_is_shown():
    plain = show_image(PIXELS)
    limits = plain.get_xlim(), plain.get_ylim()
    ax = show_boxes(PIXELS, [[-500, -9, 900, 70], [200, 300, 250, 400]], ['far', 'gone'])
    drawn(ax)
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    assert all(t.get_clip_on() for t in ax.texts)


@pytest.mark.parametrize('name', ['$5 or $6', 'a_b', '100%', 'x\\y', 'Käse', ''])
def test_awkward_names(name):
    ax = show_boxes(PIXELS, BOXES[:1], [name])
    drawn(ax)
    assert texts(ax) == [f'0 {name}']


@pytest.mark.parametrize('colab, effects', [(False, 2), (True, 0)])
def test_outlines_everywhere_but_in_colab(monkeypatch, colab, effects):
    module = types.ModuleType('google.colab')
    if colab: monkeypatch.setitem(sys.modules, 'google.colab', module)
    ax = show_image(PIXELS)
    for artist in (draw_rect(ax, torch.tensor(BOXES[0])), draw_text(ax, (3, 4), 'text')):
        assert len(artist.get_path_effects()) == effects
    drawn(ax)


# ---- items and batches

def item(n, m=4):
    "An image with `n` objects in `m` rows."
    boxes = torch.tensor(BOXES[:n]).view(-1, 4) / torch.tensor([64, 48, 64, 48])
    return TENSOR, *pad_objects(boxes, torch.tensor([1, 2, 1])[:n], m)


@pytest.mark.parametrize('n', [0, 1, 3])
def test_an_item_without_its_padding(n):
    ax = show_item(*item(n), VOCAB)
    assert texts(ax) == ['0 cat', '1 cow', '2 cat'][:n]
    assert len(ax.patches) == n
    for box, want in zip(rects(ax), BOXES): assert box == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize('size, n, ncols, shape', [
    (5, 8, 4, (2, 4)), (5, 3, 4, (1, 4)), (1, 8, 4, (1, 4)), (6, 6, 2, (3, 2)),
    (3, 3, 1, (3, 1))])
def test_a_batch_of_any_size(size, n, ncols, shape):
    items = [item(i % 4) for i in range(size)]
    batch = [torch.stack(part) for part in zip(*items)]
    show_batch(batch, VOCAB, n, ncols)
    axs = plt.gcf().axes
    shown = min(size, n)
    assert len(axs) == shape[0] * shape[1]
    assert [len(ax.get_images()) for ax in axs] == [1] * shown + [0] * (len(axs) - shown)
    assert [len(ax.patches) for ax in axs[:shown]] == [i % 4 for i in range(shown)]
    assert not any(ax.axison for ax in axs)


# ---- matches

ANCHORS = torch.tensor([[0, 0, .5, .5], [.5, 0, 1, .5], [0, .5, .5, 1], [.5, .5, 1, 1]])
OBJECTS = torch.tensor([[.1, .1, .4, .4], [.6, .6, .9, .9], [.6, .1, .9, .4]])
SCALE = torch.tensor([64, 48, 64, 48])


def test_matches_are_drawn_below_their_objects():
    labels = torch.tensor([1, 0, -1, 2])
    index = torch.tensor([0, 2, 1, 1])
    ax = show_matches(TENSOR, ANCHORS, OBJECTS, labels, index, VOCAB, title='three')
    want = torch.cat([ANCHORS[[0, 3]], OBJECTS[:2]]) * SCALE
    assert np.allclose(rects(ax), want, atol=1e-4)
    assert [p.get_edgecolor()[:3] for p in ax.patches] == [COLORS[0], COLORS[1]] * 2
    assert [p.get_linestyle() for p in ax.patches] == ['--', '--', '-', '-']
    assert texts(ax) == ['0 cat', '3 cow'] and ax.get_title() == 'three'
    ax = show_matches(TENSOR, ANCHORS, OBJECTS, labels, index, VOCAB, numbers=False)
    assert texts(ax) == []


def test_an_image_without_matches():
    nothing = torch.zeros(4, dtype=torch.int64)
    for boxes in (OBJECTS, OBJECTS[:0]):
        ax = show_matches(TENSOR, ANCHORS, boxes, nothing, nothing, VOCAB)
        assert not ax.patches and not ax.texts and drawn(ax).shape == PIXELS.shape


def test_a_dollar_in_a_name_is_not_a_formula():
    ax = show_boxes(np.zeros((20, 20, 3), np.uint8), [(1, 1, 9, 9)] * 2, ['$x\\y$', '$5 or $6'])
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.texts] == ['0 $x\\y$', '1 $5 or $6']
