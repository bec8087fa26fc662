import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader

from makers import picture, samples
from ssd_tutorial.augment import (
    ImgaugTransform, FlipTransform, iaa, ResizeTransform, train_transform
)
from ssd_tutorial.readers import Sample
from ssd_tutorial.data import (
    ObjectDataset, Vocab, denormalize, image_tensor, keep_visible, normalize, pad_objects,
    resize_sample, split_samples, ssd_dataloaders
)

VOCAB = Vocab('abc')


def message(error, function, *args, **kwargs):
    with pytest.raises(error) as e: function(*args, **kwargs)
    return str(e.value)


# ---- vocabulary, splits, padding

def test_vocab_refuses_what_it_does_not_know(tmp_path):
    v = Vocab(['cat', 'dog'])
    assert len(v) == 3 and v[0] == 'bg' and [v.index(n) for n in v.names] == [0, 1, 2] and Vocab(v.names).names == v.names
    assert "'dgo'" in message(ValueError, v.index, 'dgo') and "is it 'dog'" in message(ValueError, v.index, 'dgo')
    for names in ([], ['bg'], ['cat', 'cat'], ['cat', 'bg']): message(ValueError, Vocab, names)
    said = message(ValueError, ObjectDataset, [Sample(tmp_path/'7.jpg', [[0, 0, 5, 5]], ['cart'])], v, ResizeTransform(8))
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
    boxes, labels = torch.rand(n, 4), torch.arange(1, n + 1)
    b, l = pad_objects(boxes, labels, n + more)
    assert torch.equal(b[:n], boxes) and torch.equal(l[:n], labels) and b.shape == (n + more, 4) and not b[n:].any() and not l[n:].any()


def test_normalize_round_trip():
    x = torch.rand(2, 3, 5, 4)
    assert_close(denormalize(normalize(x)), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize('view', [lambda a: a, lambda a: a[:, ::-1], lambda a: a[::2], lambda a: np.asfortranarray(a),
                                  lambda a: np.asarray(Image.fromarray(a))])
@pytest.mark.filterwarnings('error')                  # Pillow's arrays are read-only, and torch complains of those
def test_an_array_of_any_layout_is_normalised(view):
    pixels = view(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8))
    before, x = pixels.copy(), image_tensor(pixels)
    assert x.shape == (3, *pixels.shape[:2]) and x.is_contiguous() and (pixels == before).all()
    assert_close(x, normalize(torch.from_numpy(before).permute(2, 0, 1).float() / 255))


def test_a_picture_of_the_right_size_is_not_resized():
    image, boxes, labels = np.zeros((20, 30, 3), np.uint8), np.array([[1., 2, 3, 4]]), np.array([1])
    assert all(a is b for a, b in zip(resize_sample(image, boxes, labels, (20, 30)), (image, boxes, labels)))
    new, scaled, _ = resize_sample(image, boxes, labels, 30)
    assert new.shape == (30, 30, 3) and scaled.tolist() == [[1, 3, 3, 6]] and boxes.tolist() == [[1, 2, 3, 4]]


@given(st.integers(0, 2**31), st.floats(0, .9))
def test_keep_visible_keeps_labels_with_their_boxes(seed, share):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(8, 2, generator=g) * 200 - 60
    boxes, labels = torch.cat([corner, corner + torch.rand(8, 2, generator=g) * 90], 1), torch.arange(1, 9)
    before = boxes.clone()
    kept, names = keep_visible(boxes, labels, 100, 80, share)
    want = {}
    for l, (x1, y1, x2, y2) in zip(labels.tolist(), boxes.tolist()):
        c = max(x1, 0), max(y1, 0), min(x2, 100), min(y2, 80)
        left = max(c[2] - c[0], 0) * max(c[3] - c[1], 0)
        if left > 0 and left > share * (x2 - x1) * (y2 - y1) * (1 + 1e-5): want[l] = c
    assert set(want) <= set(names.tolist()) and len(names) - len(want) <= 1    # a box on the very limit may go either way
    for l, b in zip(names.tolist(), kept):
        if l in want: assert_close(b, torch.tensor(want[l]))
    assert torch.equal(boxes, before)


# ---- data set and loaders

def dataset(folder, n=6, objects=lambda i: 1, **kw):
    return ObjectDataset(samples(folder, n, objects=objects), VOCAB, ResizeTransform(16), **kw)


def test_dataset_items(tmp_path):
    ds = dataset(tmp_path, 3, lambda i: i)
    assert len(ds) == 3 and ds.max_objects == 2
    for i, (x, boxes, labels) in enumerate(ds[j] for j in range(3)):
        assert x.shape == (3, 16, 16) and x.dtype == torch.float32 and boxes.shape == (2, 4) and labels.dtype == torch.int64
        assert (labels > 0).sum() == i and not boxes[i:].any()
        assert_close(boxes[:i], torch.tensor(ds.samples[i].boxes) / torch.tensor([64, 48, 64, 48]))


def test_empty_dataset(): assert 'empty' in message(ValueError, ObjectDataset, [], VOCAB, ResizeTransform(8))


def test_too_many_objects_names_the_picture(tmp_path):
    ok = dataset(tmp_path, 3, lambda i: i, max_objects=2)
    assert len(list(ok)[2][2]) == 2
    said = message(ValueError, lambda: list(dataset(tmp_path, 3, lambda i: i, max_objects=1)))
    for piece in ('2.png', '2 objects', 'max_objects=1'): assert piece in said


def test_batches_are_trimmed_to_their_fullest_picture(tmp_path):
    valid = dataset(tmp_path, 6, lambda i: [0, 0, 3, 1, 7, 2][i])
    shapes = [(len(x), *l.shape, b.shape[1]) for x, b, l in ssd_dataloaders(valid, valid, bs=2, num_workers=0).valid]
    assert shapes == [(2, 2, 1, 1), (2, 2, 3, 3), (2, 2, 7, 7)]


def test_last_batch_is_dropped_in_training_only(tmp_path):
    ds = dataset(tmp_path, 5)
    dls = ssd_dataloaders(ds, ds, bs=2, num_workers=0)
    assert [len(b[0]) for b in dls.train] == [2, 2] and [len(b[0]) for b in dls.valid] == [2, 2, 1]


def test_a_small_data_set_is_one_batch(tmp_path):
    dls = ssd_dataloaders(dataset(tmp_path/'a', 3), dataset(tmp_path/'b', 1), bs=64, num_workers=0)
    assert [len(b[0]) for b in dls.train] == [3] and [len(b[0]) for b in dls.valid] == [1]


@pytest.mark.parametrize('system, gpu, workers', [('linux', False, 0), ('linux', True, 2), ('darwin', True, 0), ('win32', True, 0)])
def test_processes_load_where_a_gpu_trains(tmp_path, monkeypatch, system, gpu, workers):
    monkeypatch.setattr('sys.platform', system)
    monkeypatch.setattr('os.cpu_count', lambda: 2)
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpu)
    ds = dataset(tmp_path, 2)
    assert [l.num_workers for l in ssd_dataloaders(ds, ds)] == [workers] * 2


def test_the_seed_sets_the_order(tmp_path):
    ds = dataset(tmp_path, 12)
    def two_epochs(seed):
        dls = ssd_dataloaders(ds, ds, bs=4, num_workers=0, seed=seed)
        return [torch.cat([x for x, *_ in dls.train]) for _ in range(2)], torch.cat([x for x, *_ in dls.valid])
    (a1, a2), valid = two_epochs(3)
    (b1, b2), _ = two_epochs(3)
    assert torch.equal(a1, b1) and torch.equal(a2, b2) and not torch.equal(a1, a2) and not torch.equal(a1, two_epochs(4)[0][0])
    assert torch.equal(valid, torch.stack([ds[i][0] for i in range(12)]))


@pytest.mark.parametrize('persistent', [True, False])
def test_workers_augment_every_picture_of_every_epoch_differently(tmp_path, persistent):
    noisy = ImgaugTransform(iaa.AdditiveGaussianNoise(scale=20), 16)
    ds = ObjectDataset(samples(tmp_path, 1) * 8, VOCAB, noisy)
    def epochs(seed):
        train = ssd_dataloaders(ds, ds, bs=4, num_workers=2, seed=seed).train
        if not persistent: train = DataLoader(ds, 4, num_workers=2, generator=torch.Generator().manual_seed(seed))
        return [x for _ in range(2) for b in train for x in b[0]]
    once = epochs(5)
    assert len({x.numpy().tobytes() for x in once}) == 16
    assert all(torch.equal(x, y) for x, y in zip(once, epochs(5)))


# ---- cache

def far(size, seed): return ImgaugTransform(iaa.Affine(translate_percent=(-.9, .9)), size, seed)    # objects leave; the plain picture stands in


def same_items(a, b): return all(torch.equal(x, y) for i, j in zip(a, b, strict=True) for x, y in zip(i, j, strict=True))


@pytest.mark.parametrize('make', [lambda size, seed: ResizeTransform(size), train_transform, FlipTransform, far])
@pytest.mark.parametrize('size', [16, 48, 100])
def test_items_are_the_same_with_and_without_a_cache(tmp_path, make, size):
    "For three epochs: the first fills it. A square picture of the final size and one without objects are among them."
    found = [*samples(tmp_path/'a', 4, objects=lambda i: i), *samples(tmp_path/'b', 2, (size, size))]
    plain, kept = (ObjectDataset(found, VOCAB, make(size, 3), cache=c) for c in (None, size))
    for _ in range(3): assert same_items([plain[i] for i in range(6)], [kept[i] for i in range(6)])


def test_a_picture_is_read_once(tmp_path):
    ds = dataset(tmp_path, 3, cache=16)
    first = [ds[1]]
    for s in ds.samples[1:]: s.path.unlink()
    assert same_items(first, [ds[1]]) and not ds.cache.scale[0].any()
    assert '2.png' in message(FileNotFoundError, ds.__getitem__, 2)          # never read, and not to be had


def test_a_black_picture_is_kept_too(tmp_path):
    ds = ObjectDataset([Sample(picture(tmp_path/'x.png', color=(0, 0, 0)), [], [])], VOCAB, ResizeTransform(8), cache=8)
    first = [ds[0]]
    (tmp_path/'x.png').unlink()
    assert same_items(first, [ds[0]])


def test_a_transform_that_paints_on_its_picture_does_not_paint_on_the_cache(tmp_path):
    def black(image, boxes, labels): image[:] = 0; boxes[:] = 0; return image, boxes, labels
    found = samples(tmp_path, 1)
    ds, before = ObjectDataset(found, VOCAB, black, cache=16), found[0].boxes.copy()
    ds[0]; ds[0]
    assert ds.cache.images[0].any() and (found[0].boxes == before).all()


@pytest.mark.parametrize('make', [lambda size, seed: ResizeTransform(size), FlipTransform])
def test_workers_fill_one_cache_for_all(tmp_path, make):
    "What a worker has read, the parent and the other worker need not read again."
    found = samples(tmp_path, 6)
    plain, kept = (ssd_dataloaders(*[ObjectDataset(found, VOCAB, make(16, 1), cache=c)] * 2, bs=2, num_workers=2, seed=4).train for c in (None, 16))
    for _ in range(2): assert same_items(plain, kept)
    for s in found: s.path.unlink()
    assert kept.dataset.cache.scale.all() and len([kept.dataset[i] for i in range(6)]) == 6
    assert sum(len(x) for x, *_ in kept) == 6
