import json

import numpy as np
import pytest
from PIL import Image

from ssd_tutorial.readers import image_size
from ssd_tutorial.shapes import SHAPES, draw_shape, make_shapes, shape_corners, toy_sample


def content(folder):
    files = [p for p in sorted(folder.rglob('*')) if p.is_file()]
    return {p.relative_to(folder): p.read_bytes() for p in files}


def outline(mask):
    "The box around the pixels of a mask."
    ys, xs = mask.nonzero()
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def test_two_folders_are_equal_to_the_byte(tmp_path):
    for name, n, seed in [('a', 5, 3), ('b', 5, 3), ('c', 5, 4), ('d', 3, 3)]:
        make_shapes(tmp_path/name, n, seed)
    a, b, other_seed, fewer = [content(tmp_path/name) for name in 'abcd']
    assert len(a) == 6 and a == b
    images = [p for p in fewer if p.suffix == '.jpg']
    assert len(images) == 3
    assert all(fewer[p] == a[p] and other_seed[p] != a[p] for p in images)


def test_samples(shapes16):
    assert len(shapes16) == 16
    for s in shapes16:
        w, h = image_size(s.path)
        assert 1 <= len(s.boxes) <= 6 and set(s.labels) <= set(SHAPES)
        assert (s.boxes >= 0).all() and (s.boxes <= [w, h, w, h]).all()
        assert (s.boxes[:, 2:] - s.boxes[:, :2] > 20).all()


@pytest.mark.parametrize('name', SHAPES)
@pytest.mark.parametrize('degrees', [-8, 0, 5])
@pytest.mark.parametrize('box', [
    (10, 20, 60, 70), (10.4, 20.6, 55.3, 50.2), (0, 0, 100, 80)])
def test_box_fits_the_drawn_pixels(name, degrees, box):
    im = Image.new('RGB', (100, 80))
    draw_shape(im, name, box, 'white', degrees)
    drawn = np.asarray(im.convert('L')) > 32
    assert np.abs(outline(drawn) - box).max() <= 1.1


@pytest.mark.parametrize('name', SHAPES)
def test_corners_fill_the_box(name):
    points = np.array(shape_corners(name, (3, 4, 13, 9), 7))
    assert np.allclose([*points.min(0), *points.max(0)], [3, 4, 13, 9])


def test_toy_sample(tmp_path):
    s = toy_sample(tmp_path/'toy.png')
    pixels = np.asarray(Image.open(s.path), int)
    assert image_size(s.path) == (200, 200) and s.labels == ['star', 'heart']
    drawn = np.abs(pixels - pixels[0, 0]).sum(2) > 60
    assert np.abs(outline(drawn) - [20, 40, 180, 200]).max() <= 1


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch, error):
    save = Image.Image.save
    saved = []

    def failing(self, *args, **kwargs):
        saved.append(self)
        if len(saved) == 3: raise error('the disk is full')
        save(self, *args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(Image.Image, 'save', failing)
        with pytest.raises(error): make_shapes(tmp_path/'set', 5)
    assert len(saved) == 3 and list(tmp_path.iterdir()) == []
    assert len(make_shapes(tmp_path/'set', 5)) == 5


def test_a_set_is_read_again_not_drawn_again(tmp_path, monkeypatch):
    first = make_shapes(tmp_path/'set', 3)
    monkeypatch.setattr(Image.Image, 'save', None)
    again = make_shapes(tmp_path/'set', 3)
    for a, b in zip(first, again, strict=True):
        assert (a.path, a.labels, a.boxes.tolist()) == (b.path, b.labels, b.boxes.tolist())


@pytest.mark.parametrize('other', [dict(n=4), dict(n=3, seed=1)])
def test_a_set_of_other_arguments_is_refused(tmp_path, other):
    make_shapes(tmp_path/'set', 3)
    before = content(tmp_path)
    with pytest.raises(ValueError, match='set: holds .* another folder or remove'):
        make_shapes(tmp_path/'set', **other)
    assert content(tmp_path) == before


@pytest.mark.parametrize('file, text', [
    ('thesis.txt', 'years of work'), ('train.json', json.dumps(dict(info='mine'))),
    ('train.json', '[]'), ('train.json', 'no json')])
def test_a_foreign_folder_is_left_alone(tmp_path, file, text):
    (tmp_path/file).write_text(text)
    before = content(tmp_path)
    with pytest.raises(ValueError, match='another folder'): make_shapes(tmp_path, 3)
    assert content(tmp_path) == before and len(before) == 1


def test_an_empty_folder_is_used_and_a_file_is_not(tmp_path):
    (tmp_path/'empty').mkdir()
    (tmp_path/'file').write_text('x')
    assert len(make_shapes(tmp_path/'empty', 2)) == 2
    with pytest.raises(ValueError, match='another folder'): make_shapes(tmp_path/'file', 2)
    assert (tmp_path/'file').read_text() == 'x'
