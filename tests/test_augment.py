import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.testing import assert_close

from makers import BLUE, GREEN, RED
from ssd_tutorial.augment import (
    ImgaugTransform, FlipTransform, iaa, ResizeTransform, train_transform
)
from ssd_tutorial.readers import Sample
from ssd_tutorial.data import ObjectDataset, Vocab, denormalize, keep_visible

COLORS = dict(red=RED, green=GREEN, blue=BLUE)
VOCAB = Vocab(['red', 'green', 'blue'])


@pytest.fixture
def six(tmp_path):
    "Six rectangles in a grey picture; the colour of each is its class."
    boxes = [[20 + 90 * x, 20 + 110 * y, 70 + 90 * x, 90 + 110 * y] for y in range(2) for x in range(3)]
    labels = ['red', 'green', 'blue', 'blue', 'red', 'green']
    im = Image.new('RGB', (270, 220), (128, 128, 128))
    for (x1, y1, x2, y2), l in zip(boxes, labels): ImageDraw.Draw(im).rectangle([x1, y1, x2 - 1, y2 - 1], fill=COLORS[l])
    im.save(tmp_path/'six.png')
    return Sample(tmp_path/'six.png', boxes, labels)


def colour_at(image, box):
    "Class whose channel stands out in the middle of a box; 0 where none does, as under dropout or beyond the turned rectangle."
    (cx, cy), n = ((box[:2] + box[2:]) / 2 * image.shape[-1]).long().tolist(), 2
    channels = image[:, max(cy - n, 0):cy + n, max(cx - n, 0):cx + n].flatten(1).median(1).values
    high = channels.sort(descending=True).values
    return int(channels.argmax()) + 1 if high[0] - high[1] > .25 else 0


def far(size, seed): return ImgaugTransform(iaa.Affine(translate_percent=(-.6, .6), rotate=(-5, 5), scale=(.5, 1.5)), size, seed)


@pytest.mark.parametrize('make', [train_transform, FlipTransform, far])
def test_a_label_travels_with_its_box(six, make):
    "A check that the shift of labels against boxes after some boxes have left would fail."
    ds = ObjectDataset([six], VOCAB, make(160, seed=7))
    seen, n_objects = 0, []
    for _ in range(60):
        x, boxes, labels = ds[0]
        n = int((labels > 0).sum())
        n_objects.append(n)
        for box, label in zip(boxes[:n], labels[:n]):
            found = colour_at(denormalize(x), box)
            assert found in (0, label)
            seen += found > 0
    assert seen > .6 * sum(n_objects)
    if make is far: assert sum(0 < n < 6 for n in n_objects) > 20    # some, not all, have left


def test_boxes_end_inside_the_picture_and_keep_their_share(six):
    ds = ObjectDataset([six], VOCAB, train_transform(96, seed=3))
    for _ in range(40):
        x, boxes, labels = ds[0]
        real = boxes[labels > 0]
        assert (real >= 0).all() and (real <= 1).all() and (real[:, 2:] > real[:, :2]).all() and len(real)
        assert not boxes[labels == 0].any() and x.shape == (3, 96, 96)


def test_when_all_boxes_leave_the_plain_resize_stands_in(six):
    gone = ImgaugTransform(iaa.Affine(translate_percent=dict(x=2.)), 64)
    image, boxes, labels = gone(np.array(Image.open(six.path)), six.boxes, np.arange(6))
    assert not len(keep_visible(torch.as_tensor(boxes), torch.as_tensor(labels), 64, 64)[1])
    moved, plain = (ObjectDataset([six], VOCAB, t)[0] for t in (gone, ResizeTransform(64)))
    for got, want in zip(moved, plain): assert_close(got, want)


@pytest.mark.parametrize('vertical, ways', [(False, {(0, 0), (1, 0)}), (True, {(0, 0), (1, 0), (0, 1), (1, 1)})])
def test_flips_and_upside_down(six, vertical, ways):
    "The first rectangle is red, the last green: where the first ends up tells what was done, and all others must agree."
    x1, y1, x2, y2 = six.boxes.T / np.array([[270], [220], [270], [220]])
    ds, seen = ObjectDataset([six], VOCAB, FlipTransform(96, 5, vertical)), []
    for _ in range(40):
        x, boxes, labels = ds[0]
        flips = [(fx, fy) for fx in (0, 1) for fy in (0, 1) if np.allclose(
            boxes, np.stack([1 - x2 if fx else x1, 1 - y2 if fy else y1, 1 - x1 if fx else x2, 1 - y1 if fy else y2], 1), atol=1e-4)]
        assert len(flips) == 1 and labels.tolist() == [VOCAB.index(l) for l in six.labels]
        assert [colour_at(denormalize(x), b) for b in boxes] == labels.tolist()
        seen += flips
    assert set(seen) == ways and min(map(seen.count, ways)) >= 3


def test_a_picture_without_objects_is_augmented_too(tmp_path):
    Image.new('RGB', (30, 20), (0, 90, 200)).save(tmp_path/'x.png')
    ds = ObjectDataset([Sample(tmp_path/'x.png', [], [])], VOCAB, ImgaugTransform(iaa.Invert(1.), 16))
    x, boxes, labels = ds[0]
    assert_close(denormalize(x)[:, 5, 5], torch.tensor([255., 165, 55]) / 255, atol=.01, rtol=0)
    assert labels.tolist() == [0] and boxes.tolist() == [[0] * 4]


@pytest.mark.parametrize('make', [train_transform, FlipTransform])
def test_the_seed_repeats_and_no_argument_changes(six, make):
    image, labels = np.array(Image.open(six.path)), np.arange(6)
    before = image.copy(), six.boxes.copy(), labels.copy()
    draws = [[t(image, six.boxes, labels) for _ in range(5)] for t in (make(64, 1), make(64, 1), make(64, 2))]
    same = lambda a, b: all(np.array_equal(p, q) for x, y in zip(a, b) for p, q in zip(x, y))
    assert same(draws[0], draws[1]) and not same(draws[0], draws[2])
    assert all(np.array_equal(p, q) for p, q in zip(before, (image, six.boxes, labels)))


@pytest.mark.parametrize('make', [train_transform, FlipTransform, ResizeTransform])
def test_transforms_can_be_pickled(six, make):
    image, boxes, labels = pickle.loads(pickle.dumps(make(32)))(np.array(Image.open(six.path)), six.boxes, np.arange(6))
    assert image.shape == (32, 32, 3) and len(boxes) == len(labels) == 6


def test_a_torchvision_v2_transform_is_a_transform(six):
    from torchvision import tv_tensors
    from torchvision.transforms import v2
    def turned(image, boxes, labels):
        x = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
        b = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format='XYXY', canvas_size=image.shape[:2])
        x, b = v2.Compose([v2.RandomHorizontalFlip(1.), v2.Resize((48, 64))])(x, b)
        return x.permute(1, 2, 0).numpy(), b, labels
    x, boxes, labels = ObjectDataset([six], VOCAB, turned)[0]
    assert x.shape == (3, 48, 64)
    b = torch.tensor(six.boxes) / torch.tensor([270, 220, 270, 220])
    assert_close(boxes, torch.stack([1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]], 1), atol=1e-5, rtol=0)
    assert labels.tolist() == [VOCAB.index(l) for l in six.labels]


def test_numpy_is_left_as_it_was():
    code = 'import numpy as np; had = hasattr(np, "sctypes"); import ssd_tutorial.augment; assert hasattr(np, "sctypes") == had'
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True, timeout=120)
