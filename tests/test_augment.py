import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.testing import assert_close
from torchvision.transforms import v2

from makers import BLUE, GREEN, RED
from ssd_tutorial.augment import (
    FlipTransform, ImgaugTransform, ResizeTransform, V2Transform, import_imgaug, train_transform
)
from ssd_tutorial.data import ObjectDataset, Vocab, denormalize, keep_visible, ssd_dataloaders
from ssd_tutorial.readers import Sample

iaa = import_imgaug().augmenters
COLORS = dict(red=RED, green=GREEN, blue=BLUE)
LABELS = ['red', 'green', 'blue', 'blue', 'red', 'green']
VOCAB = Vocab(['red', 'green', 'blue'])

# the first box of `six`, and the mean of all pixels, in the first draws from seed 1
ARTICLE_BOXES = [[4.74, 5.82, 16.59, 26.18], [11.98, 26.33, 17.62, 35.38],
                 [37.97, 17.94, 48.41, 35.79], [28.3, 30.67, 31.17, 35.44]]
ARTICLE_MEANS = [115.7, 24.5, 49.8, 7.7]
FLIPS = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 1), (0, 0)]


def python(code):
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def six(tmp_path):
    "Six rectangles in a grey image; the colour of each is its class."
    corners = [(20 + 90 * x, 20 + 110 * y) for y in range(2) for x in range(3)]
    boxes = [[x, y, x + 50, y + 70] for x, y in corners]
    image = Image.new('RGB', (270, 220), (128, 128, 128))
    for (x1, y1, x2, y2), label in zip(boxes, LABELS):
        ImageDraw.Draw(image).rectangle([x1, y1, x2 - 1, y2 - 1], fill=COLORS[label])
    image.save(tmp_path/'six.png')
    return Sample(tmp_path/'six.png', boxes, LABELS)


def colour_at(image, box):
    "Class whose channel stands out in the middle of a box; 0 where none does."
    n = 2
    cx, cy = ((box[:2] + box[2:]) / 2 * image.shape[-1]).long().tolist()
    middle = image[:, max(cy - n, 0):cy + n, max(cx - n, 0):cx + n]
    channels = middle.flatten(1).median(1).values
    high = channels.sort(descending=True).values
    # none does under dropout, and beyond a turned rectangle
    return int(channels.argmax()) + 1 if high[0] - high[1] > .25 else 0


def far(size, seed):
    affine = iaa.Affine(translate_percent=(-.6, .6), rotate=(-5, 5), scale=(.5, 1.5))
    return ImgaugTransform(affine, size, seed)


def crops(size, seed):
    torch.manual_seed(seed)
    return V2Transform(v2.Compose([v2.RandomIoUCrop(), v2.RandomHorizontalFlip()]), size)


@pytest.mark.parametrize('make', [train_transform, FlipTransform, far, crops])
def test_a_label_travels_with_its_box(six, make):
    "A check that the shift of labels against boxes after some boxes have left would fail."
    ds = ObjectDataset([six], VOCAB, make(160, seed=7))
    seen = 0
    n_objects = []
    for _ in range(60):
        x, boxes, labels = ds[0]
        n = int((labels > 0).sum())
        n_objects.append(n)
        for box, label in zip(boxes[:n], labels[:n]):
            found = colour_at(denormalize(x), box)
            assert found in (0, label)
            seen += found > 0
    assert seen > .6 * sum(n_objects)
    # some, not all, have left
    if make in (far, crops): assert sum(0 < n < 6 for n in n_objects) > 20


def test_boxes_end_inside_the_image_and_keep_their_share(six):
    ds = ObjectDataset([six], VOCAB, train_transform(96, seed=3))
    for _ in range(40):
        x, boxes, labels = ds[0]
        real = boxes[labels > 0]
        assert len(real) and (real >= 0).all() and (real <= 1).all()
        assert (real[:, 2:] > real[:, :2]).all()
        assert not boxes[labels == 0].any() and x.shape == (3, 96, 96)


def test_when_all_boxes_leave_the_plain_resize_stands_in(six):
    gone = ImgaugTransform(iaa.Affine(translate_percent=dict(x=2.)), 64)
    image, boxes, labels = gone(np.array(Image.open(six.path)), six.boxes, np.arange(6))
    _, kept = keep_visible(torch.as_tensor(boxes), torch.as_tensor(labels), 64, 64)
    assert not len(kept)
    moved, plain = (ObjectDataset([six], VOCAB, t)[0] for t in (gone, ResizeTransform(64)))
    for got, want in zip(moved, plain): assert_close(got, want)


def flip_unit_boxes(boxes, sideways, upright):
    boxes = np.array(boxes)
    if sideways: boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
    if upright: boxes[:, [1, 3]] = 1 - boxes[:, [3, 1]]
    return boxes


ALL_WAYS = [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize('vertical, ways', [(False, ALL_WAYS[:2]), (True, ALL_WAYS)])
def test_flips_and_upside_down(six, vertical, ways):
    "Where the first rectangle ends up tells what was done; all others must agree."
    unit = six.boxes / np.array([270, 220, 270, 220])
    ds = ObjectDataset([six], VOCAB, FlipTransform(96, 5, vertical))
    seen = []
    for _ in range(40):
        x, boxes, labels = ds[0]
        flips = [way for way in ALL_WAYS
                 if np.allclose(boxes, flip_unit_boxes(unit, *way), atol=1e-4)]
        assert len(flips) == 1 and labels.tolist() == [VOCAB.index(l) for l in six.labels]
        assert [colour_at(denormalize(x), b) for b in boxes] == labels.tolist()
        seen += flips
    assert set(seen) == set(ways) and min(map(seen.count, ways)) >= 3


def test_an_image_without_objects_is_augmented_too(tmp_path):
    Image.new('RGB', (30, 20), (0, 90, 200)).save(tmp_path/'x.png')
    invert = ImgaugTransform(iaa.Invert(1.), 16)
    x, boxes, labels = ObjectDataset([Sample(tmp_path/'x.png', [], [])], VOCAB, invert)[0]
    inverted = torch.tensor([255., 165, 55]) / 255
    assert_close(denormalize(x)[:, 5, 5], inverted, atol=.01, rtol=0)
    assert labels.tolist() == [0] and boxes.tolist() == [[0] * 4]


def same(a, b):
    "Are two lists of (image, boxes, labels) equal?"
    return all(np.array_equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y))


@pytest.mark.parametrize('make', [train_transform, FlipTransform])
def test_the_seed_repeats_and_no_argument_changes(six, make):
    args = np.array(Image.open(six.path)), six.boxes, np.arange(6)
    before = [a.copy() for a in args]

    def draws(seed):
        t = make(64, seed)
        return [t(*args) for _ in range(5)]

    assert same(draws(1), draws(1)) and not same(draws(1), draws(2))
    assert same([before], [args])


def test_the_streams_of_seeds_do_not_change(six):
    "Other draws from the same seed would make other detectors than before."
    image = np.array(Image.open(six.path))
    article = train_transform(64, seed=1)
    draws = [article(image, six.boxes, np.arange(6)) for _ in range(4)]
    assert np.allclose([boxes[0] for _, boxes, _ in draws], ARTICLE_BOXES, atol=.01)
    assert np.allclose([varied.mean() for varied, *_ in draws], ARTICLE_MEANS, atol=.2)
    flips = FlipTransform(64, seed=1, vertical=True)
    corners = [flips(image, six.boxes, np.arange(6))[1][0, :2] for _ in range(6)]
    assert [(int(x > 30), int(y > 30)) for x, y in corners] == FLIPS


def mirror(size): return V2Transform(v2.RandomHorizontalFlip(1.), size)


@pytest.mark.parametrize('make', [train_transform, FlipTransform, ResizeTransform, mirror])
def test_transforms_can_be_pickled(six, make):
    t = pickle.loads(pickle.dumps(make(32)))
    image, boxes, labels = t(np.array(Image.open(six.path)), six.boxes, np.arange(6))
    assert image.shape == (32, 32, 3) and len(boxes) == len(labels) == 6


def test_a_new_process_can_unpack_the_transform(six, tmp_path):
    "As a loader's worker on macOS and Windows does: there imgaug has not been imported yet."
    t = train_transform(32, seed=4)
    (tmp_path/'transform').write_bytes(pickle.dumps(t))
    shown = python(f"""
import pickle, sys, numpy as np
from PIL import Image
t = pickle.loads(open({str(tmp_path/'transform')!r}, 'rb').read())
boxes = np.array({six.boxes.tolist()})
print(t(np.array(Image.open({str(six.path)!r})), boxes, np.arange(6))[1].round(3).tolist())
""")
    boxes = t(np.array(Image.open(six.path)), six.boxes.astype(float), np.arange(6))[1]
    assert np.allclose(json.loads(shown), boxes, atol=2e-3)


# ---- torchvision's transforms

def test_a_flip_by_torchvision_is_our_flip(six):
    args = np.array(Image.open(six.path)), six.boxes, np.arange(6)
    before = [a.copy() for a in args]
    flips = FlipTransform(96, seed=0)
    ours = [flips(*args) for _ in range(20)]
    plain = ResizeTransform(96)(*args)
    mirrored = next(o for o in ours if not np.array_equal(o[0], plain[0]))
    image, boxes, labels = mirror(96)(*args)
    assert image.dtype == np.uint8 and image.shape == (96, 96, 3)
    # the one resizes before, the other after the flip
    assert np.abs(image.astype(int) - mirrored[0]).max() <= 1
    assert np.allclose(boxes, mirrored[1], atol=1e-4) and labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert same([V2Transform(v2.Identity(), 96)(*args)], [plain])
    assert same([before], [args])

    x, boxes, labels = ObjectDataset([six], VOCAB, mirror(64))[0]
    unit = six.boxes / np.array([270, 220, 270, 220])
    want = torch.tensor(flip_unit_boxes(unit, 1, 0), dtype=torch.float32)
    assert_close(boxes, want, atol=1e-5, rtol=0)
    assert labels.tolist() == [VOCAB.index(l) for l in six.labels]


class Window(torch.nn.Module):
    "The same crop of images and boxes, without torchvision's chance."
    def __init__(self, top, left, height, width):
        super().__init__()
        self.window = top, left, height, width

    def forward(self, image, target):
        boxes = v2.functional.crop(target['boxes'], *self.window)
        return v2.functional.crop(image, *self.window), dict(target, boxes=boxes)


def test_what_a_crop_leaves_outside_goes_with_its_label(six):
    "Columns 90 to 190 hold the second and fifth rectangle, and ten columns of no other."
    t = V2Transform(Window(0, 90, 220, 100), 110)
    image, boxes, labels = t(np.array(Image.open(six.path)), six.boxes, np.arange(6))
    assert labels.tolist() == [1, 4] and image.shape == (110, 110, 3)
    scale = np.array([1.1, .5, 1.1, .5])
    assert np.allclose(boxes, (six.boxes[[1, 4]] - [90, 0, 90, 0]) * scale, atol=1e-3)
    x, boxes, labels = ObjectDataset([six], VOCAB, t)[0]
    assert labels.tolist() == [VOCAB.index('green'), VOCAB.index('red'), 0, 0, 0, 0]

    # where none is left, the plain resize stands in
    gone = V2Transform(Window(0, 0, 15, 15), 64)
    assert len(gone(np.array(Image.open(six.path)), six.boxes, np.arange(6))[2]) == 0
    moved, plain = (ObjectDataset([six], VOCAB, t)[0] for t in (gone, ResizeTransform(64)))
    for got, want in zip(moved, plain): assert_close(got, want)


def test_no_objects_and_other_types(six):
    image = np.array(Image.open(six.path))
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    new, boxes, labels = V2Transform(v2.RandomIoUCrop(), 32)(image, *none)
    assert (new.shape, boxes.shape, labels.shape) == ((32, 32, 3), (0, 4), (0,))
    # views with turned axes, whole numbers
    turned = image[::-1, ::-1]
    new, boxes, _ = mirror(32)(turned, six.boxes.astype(np.int64), np.arange(6))
    assert boxes.dtype == np.float32 and new.flags['WRITEABLE']
    floats = V2Transform(v2.ToDtype(torch.float32, scale=True))
    with pytest.raises(ValueError, match='float32, not bytes.*leave out ToDtype'):
        floats(image, six.boxes, np.arange(6))


def test_workers_draw_different_crops(six):
    "torchvision draws from torch's numbers, which PyTorch seeds in each worker."
    def epoch(seed):
        ds = ObjectDataset([six] * 4, VOCAB, V2Transform(v2.RandomIoUCrop(), 32))
        loader = ssd_dataloaders(ds, ds, bs=2, num_workers=2, seed=seed).train
        return torch.cat([images for images, *_ in loader])

    first = epoch(1)
    assert len(first.flatten(1).unique(dim=0)) >= 3 and torch.equal(epoch(1), first)


def test_numpy_is_left_as_it_was():
    python('import numpy as np; had = hasattr(np, "sctypes"); '
           'from ssd_tutorial.augment import train_transform; train_transform(32); '
           'assert hasattr(np, "sctypes") == had')


def test_a_broken_imgaug_costs_only_what_needs_it(tmp_path):
    (tmp_path/'imgaug.py').write_text('raise AttributeError("broken")')
    shown = python(f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
from ssd_tutorial.augment import FlipTransform, ResizeTransform, train_transform
for t in (FlipTransform(16, 0), ResizeTransform(16)):
    print(t(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 4)), np.zeros(0))[0].shape)
print('imgaug' in sys.modules)
try: train_transform(16)
except AttributeError as e: print(e)
print(hasattr(np, 'sctypes') == (np.__version__ < '2'))
""")
    assert shown.split('\n')[:-1] == ['(16, 16, 3)'] * 2 + ['False', 'broken', 'True']
