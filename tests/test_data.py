import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader

from makers import message, picture, samples
from ssd_tutorial.augment import (
    FlipTransform, ImgaugTransform, ResizeTransform, import_imgaug, train_transform
)
from ssd_tutorial.data import (
    ObjectDataset, Vocab, denormalize, image_tensor, keep_visible, normalize, pad_objects,
    resize_sample, split_samples, ssd_dataloaders
)
from ssd_tutorial.readers import Sample

VOCAB = Vocab('abc')
iaa = import_imgaug().augmenters


# ---- vocabulary, splits, padding

def test_vocab_refuses_what_it_does_not_know(tmp_path):
    v = Vocab(['cat', 'dog'])
    assert len(v) == 3 and v[0] == 'bg'
    assert [v.index(n) for n in v.names] == [0, 1, 2]
    assert Vocab(v.names).names == v.names
    said = message(ValueError, v.index, 'dgo')
    assert "'dgo'" in said and "is it 'dog'" in said

    for names in ([], ['bg'], ['cat', 'cat'], ['cat', 'bg']): message(ValueError, Vocab, names)
    cart = Sample(tmp_path/'7.jpg', [[0, 0, 5, 5]], ['cart'])
    said = message(ValueError, ObjectDataset, [cart], v, ResizeTransform(8))
    for piece in ('7.jpg', "'cart'", "is it 'cat'"): assert piece in said


@given(st.integers(2, 60), st.floats(0, 1), st.integers(0, 1000))
def test_split_is_a_partition(n, pct, seed):
    items = list(range(n))
    if not 0 < int(pct * n) < n:
        assert 'empty' in message(ValueError, split_samples, items, pct, seed)
        return
    train, valid = split_samples(items, pct, seed)
    assert sorted(train + valid) == items and len(valid) == int(pct * n)
    assert (train, valid) == split_samples(items, pct, seed)


def test_split_follows_the_seed():
    items = list(range(40))
    assert split_samples(items, seed=1) != split_samples(items, seed=2)


@given(st.integers(0, 5), st.integers(0, 5))
def test_padding_adds_zeros_only(n, more):
    boxes = torch.rand(n, 4)
    labels = torch.arange(1, n + 1)
    b, l = pad_objects(boxes, labels, n + more)
    assert torch.equal(b[:n], boxes) and torch.equal(l[:n], labels)
    assert b.shape == (n + more, 4) and l.shape == (n + more,)
    assert not b[n:].any() and not l[n:].any()


def test_normalize_round_trip():
    x = torch.rand(2, 3, 5, 4)
    assert_close(denormalize(normalize(x)), x, rtol=0, atol=1e-6)


VIEWS = dict(
    plain=lambda a: a, mirrored=lambda a: a[:, ::-1], every_second=lambda a: a[::2],
    fortran=np.asfortranarray, pillow=lambda a: np.asarray(Image.fromarray(a)))


# Pillow's arrays are read-only, and torch complains of those
@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('view', VIEWS.values(), ids=VIEWS)
def test_an_array_of_any_layout_is_normalised(view):
    rng = np.random.default_rng(0)
    pixels = view(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    before = pixels.copy()
    x = image_tensor(pixels)
    assert x.shape == (3, *pixels.shape[:2]) and x.is_contiguous()
    assert (pixels == before).all()
    assert_close(x, normalize(torch.from_numpy(before).permute(2, 0, 1).float() / 255))


def test_an_image_of_the_right_size_is_not_resized():
    item = np.zeros((20, 30, 3), np.uint8), np.array([[1., 2, 3, 4]]), np.array([1])
    same = resize_sample(*item, (20, 30))
    assert all(a is b for a, b in zip(same, item, strict=True))
    new, scaled, _ = resize_sample(*item, 30)
    assert new.shape == (30, 30, 3) and scaled.tolist() == [[1, 3, 3, 6]]
    assert item[1].tolist() == [[1, 2, 3, 4]]


def area(x1, y1, x2, y2): return max(x2 - x1, 0) * max(y2 - y1, 0)


@given(st.integers(0, 2**31), st.floats(0, .9))
def test_keep_visible_keeps_labels_with_their_boxes(seed, share):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(8, 2, generator=g) * 200 - 60
    boxes = torch.cat([corner, corner + torch.rand(8, 2, generator=g) * 90], 1)
    labels = torch.arange(1, 9)
    before = boxes.clone()
    kept, names = keep_visible(boxes, labels, 100, 80, share)
    want = {}
    for l, box in zip(labels.tolist(), boxes.tolist()):
        x1, y1, x2, y2 = box
        c = max(x1, 0), max(y1, 0), min(x2, 100), min(y2, 80)
        if area(*c) > 0 and area(*c) > share * area(*box) * (1 + 1e-5): want[l] = c
    # a box on the very limit may go either way
    assert set(want) <= set(names.tolist()) and len(names) - len(want) <= 1
    for l, b in zip(names.tolist(), kept):
        if l in want: assert_close(b, torch.tensor(want[l]))
    assert torch.equal(boxes, before)


# ---- data set and loaders

def dataset(folder, n=6, objects=lambda i: 1, **kwargs):
    return ObjectDataset(samples(folder, n, objects=objects), VOCAB, ResizeTransform(16),
                         **kwargs)


def test_dataset_items(tmp_path):
    ds = dataset(tmp_path, 3, lambda i: i)
    assert len(ds) == 3 and ds.max_objects == 2
    for i in range(3):
        x, boxes, labels = ds[i]
        assert x.shape == (3, 16, 16) and x.dtype == torch.float32
        assert boxes.shape == (2, 4) and labels.dtype == torch.int64
        assert (labels > 0).sum() == i and not boxes[i:].any()
        size = torch.tensor([64, 48, 64, 48])
        assert_close(boxes[:i], torch.tensor(ds.samples[i].boxes) / size)


def test_empty_dataset():
    assert 'empty' in message(ValueError, ObjectDataset, [], VOCAB, ResizeTransform(8))


def test_too_many_objects_names_the_image(tmp_path):
    ok = dataset(tmp_path, 3, lambda i: i, max_objects=2)
    assert len(list(ok)[2][2]) == 2
    said = message(ValueError, dataset, tmp_path, 3, lambda i: i, max_objects=1)
    for piece in ('2.png', '2 objects', 'max_objects=1'): assert piece in said


def test_batches_are_trimmed_to_their_fullest_image(tmp_path):
    valid = dataset(tmp_path, 6, lambda i: [0, 0, 3, 1, 7, 2][i])
    dls = ssd_dataloaders(valid, valid, bs=2, num_workers=0)
    shapes = [(len(x), *l.shape, b.shape[1]) for x, b, l in dls.valid]
    assert shapes == [(2, 2, 1, 1), (2, 2, 3, 3), (2, 2, 7, 7)]


def batch_sizes(loader): return [len(x) for x, _, _ in loader]


def test_last_batch_is_dropped_in_training_only(tmp_path):
    ds = dataset(tmp_path, 5)
    dls = ssd_dataloaders(ds, ds, bs=2, num_workers=0)
    assert batch_sizes(dls.train) == [2, 2] and batch_sizes(dls.valid) == [2, 2, 1]


def test_a_small_data_set_is_one_batch(tmp_path):
    sets = dataset(tmp_path/'a', 3), dataset(tmp_path/'b', 1)
    dls = ssd_dataloaders(*sets, bs=64, num_workers=0)
    assert batch_sizes(dls.train) == [3] and batch_sizes(dls.valid) == [1]


@pytest.mark.parametrize('system, gpu, workers', [
    ('linux', False, 0), ('linux', True, 2), ('darwin', True, 0), ('win32', True, 0)])
def test_processes_load_where_a_gpu_trains(tmp_path, monkeypatch, system, gpu, workers):
    monkeypatch.setattr('sys.platform', system)
    monkeypatch.setattr('os.cpu_count', lambda: 2)
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpu)
    ds = dataset(tmp_path, 2)
    assert [l.num_workers for l in ssd_dataloaders(ds, ds)] == [workers] * 2


def test_the_seed_sets_the_order(tmp_path):
    ds = dataset(tmp_path, 12)

    def images(loader): return torch.cat([x for x, _, _ in loader])

    def two_epochs(seed):
        dls = ssd_dataloaders(ds, ds, bs=4, num_workers=0, seed=seed)
        return images(dls.train), images(dls.train), images(dls.valid)

    first, second, valid = two_epochs(3)
    again, second_again, _ = two_epochs(3)
    assert torch.equal(first, again) and torch.equal(second, second_again)
    assert not torch.equal(first, second) and not torch.equal(first, two_epochs(4)[0])
    assert torch.equal(valid, torch.stack([ds[i][0] for i in range(12)]))


@pytest.mark.parametrize('persistent', [True, False])
def test_workers_augment_every_image_of_every_epoch_differently(tmp_path, persistent):
    noisy = ImgaugTransform(iaa.AdditiveGaussianNoise(scale=20), 16)
    ds = ObjectDataset(samples(tmp_path, 1) * 8, VOCAB, noisy)

    def loader(seed):
        if persistent: return ssd_dataloaders(ds, ds, bs=4, num_workers=2, seed=seed).train
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(ds, 4, num_workers=2, generator=generator)

    def two_epochs(seed):
        train = loader(seed)
        return [x for _ in range(2) for images, *_ in train for x in images]

    once = two_epochs(5)
    assert len({x.numpy().tobytes() for x in once}) == 16
    assert all(torch.equal(x, y) for x, y in zip(once, two_epochs(5), strict=True))


# ---- cache

def plain(size, seed): return ResizeTransform(size)


def far(size, seed):
    "Objects leave the image; the plain one stands in."
    return ImgaugTransform(iaa.Affine(translate_percent=(-.9, .9)), size, seed)


def same_items(a, b):
    pairs = [pair for items in zip(a, b, strict=True) for pair in zip(*items, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize('make', [plain, train_transform, FlipTransform, far])
@pytest.mark.parametrize('size', [16, 48, 100])
def test_items_are_the_same_with_and_without_a_cache(tmp_path, make, size):
    "For three epochs, of which the first fills the cache."
    found = samples(tmp_path/'a', 4, objects=lambda i: i)      # the first has no object
    found += samples(tmp_path/'b', 2, (size, size))            # of the final size already
    without, kept = [ObjectDataset(found, VOCAB, make(size, 3), cache=c) for c in (None, size)]
    for _ in range(3):
        assert same_items([without[i] for i in range(6)], [kept[i] for i in range(6)])


def test_an_image_is_read_once(tmp_path):
    ds = dataset(tmp_path, 3, cache=16)
    first = [ds[1]]
    for s in ds.samples[1:]: s.path.unlink()
    assert same_items(first, [ds[1]])
    assert ds.cache.filled.tolist() == [False, True, False] and not ds.cache.scale[0].any()
    # never read, and not to be had
    assert '2.png' in message(FileNotFoundError, ds.__getitem__, 2)


def test_a_black_image_is_kept_too(tmp_path):
    black = Sample(picture(tmp_path/'x.png', color=(0, 0, 0)), [], [])
    ds = ObjectDataset([black], VOCAB, ResizeTransform(8), cache=8)
    first = [ds[0]]
    (tmp_path/'x.png').unlink()
    assert same_items(first, [ds[0]])


def test_a_transform_that_paints_on_its_image_does_not_paint_on_the_cache(tmp_path):
    def black(image, boxes, labels):
        image[:] = 0
        boxes[:] = 0
        return image, boxes, labels

    found = samples(tmp_path, 1)
    before = found[0].boxes.copy()
    ds = ObjectDataset(found, VOCAB, black, cache=16)
    for _ in range(2): assert ds[0][0].std(dim=(1, 2)).max() == 0
    assert ds.cache.images[0].any() and (found[0].boxes == before).all()


@pytest.mark.parametrize('make', [plain, FlipTransform])
def test_workers_fill_one_cache_for_all(tmp_path, make):
    "What a worker has read, the parent and the other worker need not read again."
    found = samples(tmp_path, 6)

    def loader(cache):
        sets = [ObjectDataset(found, VOCAB, make(16, 1), cache=cache) for _ in range(2)]
        return ssd_dataloaders(*sets, bs=2, num_workers=2, seed=4).train

    without = loader(None)
    kept = loader(16)
    for _ in range(2): assert same_items(without, kept)
    for s in found: s.path.unlink()
    assert kept.dataset.cache.filled.all() and kept.dataset.cache.scale.all()
    assert len([kept.dataset[i] for i in range(6)]) == 6 and sum(batch_sizes(kept)) == 6
