import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader

from makers import coco_dict, make_coco, make_voc, noise, picture, samples, truncate, voc_object, voc_xml
from ssd_tutorial.augment import (
    ImgaugTransform, FlipTransform, iaa, ResizeTransform, train_transform
)
from ssd_tutorial.readers import (
    Sample, check_images, image_size, load_image, pascal_2007, read_coco, read_voc
)
from ssd_tutorial.data import (
    ObjectDataset, Vocab, denormalize, image_tensor, keep_visible, normalize, pad_objects,
    resize_sample, split_samples, ssd_dataloaders
)

VOCAB = Vocab('abc')


def message(error, function, *args, **kwargs):
    with pytest.raises(error) as e: function(*args, **kwargs)
    return str(e.value)


# ---- reading Pascal VOC

@pytest.mark.parametrize('level', ['VOCdevkit', *[f'VOCdevkit/VOC2007/{d}' for d in ('', 'Annotations', 'JPEGImages', 'ImageSets/Main')]])
def test_voc_from_any_level(tmp_path, level):
    make_voc(tmp_path/'VOCdevkit'/'VOC2007')
    train, everything = read_voc(tmp_path/level), read_voc(tmp_path/level, None)
    assert [s.path.name for s in train] == ['000001.jpg', '000002.jpg'] and len(everything) == 4
    assert train[0].boxes.tolist() == [[4, 4, 30, 30]] and train[0].labels == ['cat'] and train[0].difficult == [False]


def test_voc_two_years_are_joined(tmp_path):
    make_voc(tmp_path/'VOCdevkit'/'VOC2007'); make_voc(tmp_path/'VOCdevkit'/'VOC2012', ('2012_1', '2012_2', '2012_3'))
    assert [s.path.name for s in read_voc(tmp_path/'VOCdevkit')] == ['000001.jpg', '000002.jpg', '2012_1.jpg']
    assert len(read_voc(tmp_path/'VOCdevkit', 'val')) == 4
    assert [s.path.name for s in read_voc(tmp_path/'VOCdevkit'/'VOC2012')] == ['2012_1.jpg']


def test_voc_split_of_one_year_only(tmp_path):
    make_voc(tmp_path/'VOC2007', lists=dict(test=['000004'])); make_voc(tmp_path/'VOC2012', ('2012_1',), dict(train=['2012_1']))
    assert [s.path.name for s in read_voc(tmp_path, 'test')] == ['000004.jpg']


@pytest.mark.parametrize('extra, difficult', [('', False), ('<difficult>1</difficult>', True),
                                              ('<difficult> 0 </difficult><pose/>', False)])
def test_voc_optional_fields_and_float_coordinates(tmp_path, extra, difficult):
    make_voc(tmp_path, objects=[voc_object(' cat ', (1.5, 2.25, '30.0', ' 40 '), extra=extra)])
    s = read_voc(tmp_path)[0]
    assert s.boxes.tolist() == [[.5, 1.25, 30, 40]] and s.labels == ['cat'] and s.difficult == [difficult]


@pytest.mark.parametrize('filename', ['000001', '', '/home/someone/000001.jpg', 'renamed.jpg'])
def test_voc_file_names_that_are_not_quite_right(tmp_path, filename):
    make_voc(tmp_path)
    (tmp_path/'Annotations'/'000001.xml').write_text(voc_xml(filename, voc_object()))
    assert read_voc(tmp_path)[0].path == tmp_path/'JPEGImages'/'000001.jpg'


@pytest.mark.parametrize('filename', ['000001', '000001.png'])
def test_voc_annotation_of_another_name_without_the_right_ending(tmp_path, filename):
    (make_voc(tmp_path)/'Annotations'/'000001.xml').rename(tmp_path/'Annotations'/'first.xml')
    (tmp_path/'Annotations'/'first.xml').write_text(voc_xml(filename, voc_object('dog')))
    assert [s.path.name for s in read_voc(tmp_path, None) if s.labels == ['dog']] == ['000001.jpg']


def test_voc_annotations_beside_the_images(tmp_path):
    for i in range(3):
        picture(tmp_path/f'{i}.png')
        (tmp_path/f'{i}.xml').write_text(voc_xml(f'{i}.png', *[voc_object()] * i))
    assert [len(s.boxes) for s in read_voc(tmp_path, None)] == [0, 1, 2]


VOC_FAULTS = {    # what is wrong: XML of picture 000001, pieces of the message
    'not_xml': ('this is no XML', ['000001.xml', 'not an XML file']),
    'cut_short': ('<annotation><object>', ['000001.xml', 'not an XML file']),
    'empty': ('', ['000001.xml', 'not an XML file']),
    'no_bndbox': (voc_xml('000001.jpg', voc_object(), voc_object('dog', bndbox='')), ['000001.xml', 'object 2', "'dog'", 'bndbox']),
    'not_a_number': (voc_xml('000001.jpg', voc_object('dog', ('left', 5, 30, 30))), ['000001.xml', 'object 1', "'dog'", 'numbers']),
    'no_name': (voc_xml('000001.jpg', voc_object('')), ['000001.xml', 'object 1', 'name']),
    'reversed': (voc_xml('000001.jpg', voc_object(), voc_object('dog', (30, 5, 20, 9))),
                 ['000001.xml', 'object 2', "'dog'", 'reversed', '(29, 4, 20, 9)']),
    'outside': (voc_xml('000001.jpg', voc_object('dog', (5, 5, 90, 30))), ['000001.xml', 'object 1', "'dog'", 'leaves the 64x48 image']),
    'no_area': (voc_xml('000001.jpg', voc_object('dog', (6, 6, 5, 30))), ['000001.xml', 'object 1', "'dog'", 'no area']),
    'nan': (voc_xml('000001.jpg', voc_object('dog', (5, 'nan', 30, 30))), ['000001.xml', 'object 1', "'dog'", 'not finite'])}


@pytest.mark.parametrize('fault', VOC_FAULTS)
def test_voc_faults(tmp_path, fault):
    xml, pieces = VOC_FAULTS[fault]
    make_voc(tmp_path)
    (tmp_path/'Annotations'/'000001.xml').write_text(xml)
    said = message(ValueError, read_voc, tmp_path)
    for piece in [*pieces, '1 faults', 'drop_bad']: assert piece in said
    assert '000002' not in said
    left = read_voc(tmp_path, drop_bad=True)
    assert [s.labels for s in left if s.path.name == '000002.jpg'] == [['cat']]
    assert all(l == 'cat' for s in left for l in s.labels)


@pytest.mark.parametrize('remove, pieces', [('JPEGImages/000001.jpg', ['000001.xml', '000001.jpg', 'missing']),
                                            ('Annotations/000001.xml', ['000001.xml', 'no such annotation'])])
def test_voc_missing_files(tmp_path, remove, pieces):
    (make_voc(tmp_path)/remove).unlink()
    said = message(ValueError, read_voc, tmp_path)
    for piece in [*pieces, 'drop_bad']: assert piece in said
    assert [s.path.name for s in read_voc(tmp_path, drop_bad=True)] == ['000002.jpg']


def test_text_named_jpg(tmp_path):
    (make_voc(tmp_path)/'JPEGImages'/'000001.jpg').write_text('not a picture')
    said = message(ValueError, read_voc, tmp_path)
    for piece in ('000001.jpg', 'not an image', 'drop_bad'): assert piece in said
    assert [s.path.name for s in read_voc(tmp_path, drop_bad=True)] == ['000002.jpg']
    assert '000001.jpg' in message(ValueError, load_image, tmp_path/'JPEGImages'/'000001.jpg')


def test_all_faults_are_counted_and_ten_shown(tmp_path):
    stems = [f'{i:03d}' for i in range(14)]
    make_voc(tmp_path, stems, dict(train=stems), [voc_object(), voc_object('dog', (9, 9, 5, 5))])
    said = message(ValueError, read_voc, tmp_path)
    assert '14 faults' in said and said.count('reversed') == 10 and '4 more' in said
    assert [s.labels for s in read_voc(tmp_path, drop_bad=True)] == [['cat']] * 14


def test_a_box_on_the_edge_is_clipped_not_refused(tmp_path):
    make_voc(tmp_path, objects=[voc_object(box=(0, 0, 65, 49))])
    assert read_voc(tmp_path)[0].boxes.tolist() == [[0, 0, 64, 48]]


def test_folders_that_are_no_voc_tree(tmp_path):
    assert 'nowhere: no such folder' in message(FileNotFoundError, read_voc, tmp_path/'nowhere')
    (tmp_path/'holiday').mkdir(); (tmp_path/'holiday'/'notes.txt').write_text('')
    said = message(ValueError, read_voc, tmp_path/'holiday')
    for piece in ('holiday', 'not a Pascal VOC tree', 'Annotations/*.xml', 'notes.txt'): assert piece in said
    (tmp_path/'empty').mkdir()
    assert 'nothing' in message(ValueError, read_voc, tmp_path/'empty')


def test_unknown_split_names_the_splits_found(tmp_path):
    said = message(ValueError, read_voc, make_voc(tmp_path), 'test')
    for piece in (str(tmp_path), 'test.txt', "['train', 'val']", 'split=None'): assert piece in said


def test_nothing_annotated(tmp_path): assert 'no annotated image' in message(ValueError, read_voc, make_voc(tmp_path, lists=dict(train=[])))


# ---- reading COCO

@pytest.mark.parametrize('file, images', [
    ('set/train.json', 'set/train'), ('set/train.json', 'set'), ('set/annotations.json', 'set/images'),
    ('set/annotations/train.json', 'set/train'),
    ('set/annotations/instances_train2017.json', 'set/train2017'), ('set/annotations/train.json', 'set/images/train'),
    ('set/annotations/all.json', 'set/images'), ('set/train/_annotations.coco.json', 'set/train')])
def test_coco_finds_its_images(tmp_path, file, images):
    got = read_coco(make_coco(tmp_path/file, tmp_path/images))
    assert [s.path for s in got] == [tmp_path/images/f'{i}.jpg' for i in range(3)]
    assert got[1].boxes.tolist() == [[4, 5, 24, 30]] and [s.labels for s in got] == [['cat'], ['dog'], ['cat']]


def test_coco_images_where_only_the_caller_knows(tmp_path):
    file = make_coco(tmp_path/'a'/'x.json', tmp_path/'elsewhere')
    said = message(ValueError, read_coco, file)
    for piece in ('x.json', '0.jpg', 'images='): assert piece in said
    assert len(read_coco(file, tmp_path/'elsewhere')) == 3
    assert 'no such folder' in message(FileNotFoundError, read_coco, file, tmp_path/'nowhere')


def test_coco_keeps_empty_pictures_and_difficult_objects(tmp_path):
    coco = coco_dict(4)
    first, _, third, _ = coco['annotations']
    coco['annotations'] = [dict(first, iscrowd=1), dict(first, ignore=1), first, third]
    got = read_coco(make_coco(tmp_path/'x.json', coco=coco))
    assert [len(s.boxes) for s in got] == [3, 0, 1, 0] and got[0].difficult == [True, True, False]


@pytest.mark.parametrize('text', ['{"images": [', '[]', '3', '', '{"images": [], "annotations": []}',
                                  '{"images": 1, "annotations": [], "categories": []}'])
def test_files_that_are_not_coco(tmp_path, text):
    (tmp_path/'x.json').write_text(text)
    said = message(ValueError, read_coco, tmp_path/'x.json')
    for piece in ('x.json', 'not a COCO file', 'images, annotations and categories'): assert piece in said
    assert 'y.json' in message(FileNotFoundError, read_coco, tmp_path/'y.json')


COCO_FAULTS = {    # what annotation 101 gets, pieces of the message
    'image_id': (dict(image_id=77), ['annotation 101', 'no image 77']),
    'category_id': (dict(category_id=77), ['annotation 101', 'no category 77']),
    'bbox_short': (dict(bbox=[1, 2, 3]), ['annotation 101', 'bbox', '[1, 2, 3]']),
    'bbox_none': (dict(bbox=None), ['annotation 101', 'bbox']),
    'bbox_text': (dict(bbox=[1, 2, 'three', 4]), ['annotation 101', 'bbox']),
    'bbox_null': (dict(bbox=[1, 2, None, 4]), ['annotation 101', 'bbox']),
    'reversed': (dict(bbox=[20, 20, -5, 5]), ['1.jpg', 'object 1', "'dog'", 'reversed']),
    'outside': (dict(bbox=[20, 20, 60, 5]), ['1.jpg', 'object 1', "'dog'", 'leaves the 64x48 image']),
    'no_area': (dict(bbox=[20, 20, 0, 5]), ['1.jpg', 'object 1', "'dog'", 'no area'])}


@pytest.mark.parametrize('fault', COCO_FAULTS)
def test_coco_faults(tmp_path, fault):
    change, pieces = COCO_FAULTS[fault]
    coco = coco_dict()
    coco['annotations'][1].update(change)
    file = make_coco(tmp_path/'x.json', coco=coco)
    said = message(ValueError, read_coco, file)
    for piece in ['x.json', '1 faults', 'drop_bad', *pieces]: assert piece in said
    assert [s.labels for s in read_coco(file, drop_bad=True)] == [['cat'], [], ['cat']]


def test_coco_missing_image(tmp_path):
    file = make_coco(tmp_path/'x.json')
    (tmp_path/'1.jpg').unlink()
    said = message(ValueError, read_coco, file)
    for piece in ('x.json', '1.jpg', 'no such image', 'drop_bad'): assert piece in said
    assert [s.path.name for s in read_coco(file, drop_bad=True)] == ['0.jpg', '2.jpg']


@pytest.mark.parametrize('part, key', [('images', 'id'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name')])
def test_coco_entry_without_a_key(tmp_path, part, key):
    file = make_coco(tmp_path/'x.json')
    coco = coco_dict()
    del coco[part][1][key]
    file.write_text(json.dumps(coco))
    said = message(ValueError, read_coco, file)
    for piece in ('x.json', key): assert piece in said


def test_pascal_2007_is_what_fastai_reads(tmp_path, monkeypatch):
    coco = coco_dict(5)
    coco['annotations'].append(dict(coco['annotations'][1], id=999, bbox=[30, 2, 9.5, 8.25], category_id=1))
    make_coco(tmp_path/'pascal'/'train.json', tmp_path/'pascal'/'train', coco=coco)
    from fastai.data import external
    from fastai.vision.data import get_annotations
    asked = []
    monkeypatch.setattr(external, 'untar_data', lambda url, *a, **k: asked.append(url) or tmp_path/'pascal')
    names, annotations = get_annotations(tmp_path/'pascal'/'train.json')
    got = pascal_2007()
    assert asked == [external.URLs.PASCAL_2007]
    assert [s.path.name for s in got] == list(names) and all(s.path.is_file() for s in got)
    assert [(s.boxes.tolist(), s.labels) for s in got] == [(boxes, labels) for boxes, labels in annotations]
    assert 'val2' in message(ValueError, pascal_2007, 'val2')


# ---- pictures

def test_pictures_of_every_mode_are_rgb(tmp_path):
    grey = Image.new('L', (8, 6), 100)
    clear = Image.new('RGBA', (8, 6), (255, 0, 0, 0))
    palette = Image.new('P', (8, 6), 1); palette.putpalette([0, 0, 0, 200, 50, 25])
    wide = Image.fromarray(np.full((6, 8), 65535, np.uint16))
    cases = {'1.png': (Image.new('1', (8, 6), 1), (255,) * 3), 'L.png': (grey, (100,) * 3),
             'LA.png': (Image.new('LA', (8, 6), (9, 0)), (255,) * 3),
             'P.png': (palette, (200, 50, 25)), 'RGB.png': (Image.new('RGB', (8, 6), (1, 2, 3)), (1, 2, 3)),
             'RGBA.png': (clear, (255,) * 3),
             'I16.png': (wide, (255,) * 3), 'RGBA2.png': (Image.new('RGBA', (8, 6), (10, 20, 30, 255)), (10, 20, 30))}
    for name, (im, _) in cases.items(): im.save(tmp_path/name)
    palette.save(tmp_path/'Pclear.png', transparency=1); palette.save(tmp_path/'Pclear.gif', transparency=1)
    Image.new('CMYK', (8, 6), (0, 255, 255, 0)).save(tmp_path/'CMYK.jpg', quality=100)
    assert Image.open(tmp_path/'CMYK.jpg').mode == 'CMYK' and Image.open(tmp_path/'I16.png').mode.startswith('I')
    wanted = {k: v[1] for k, v in cases.items()} | {'Pclear.png': (255,) * 3, 'Pclear.gif': (255,) * 3, 'CMYK.jpg': (255, 0, 0)}
    for name, rgb in wanted.items():
        im = load_image(tmp_path/name)
        assert im.mode == 'RGB' and im.size == (8, 6) == image_size(tmp_path/name), name
        assert np.abs(np.asarray(im, int) - rgb).max() <= 4, (name, im.getpixel((0, 0)))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_exif_turns_picture_and_size_alike(tmp_path, orientation, ending):
    exif = Image.Exif(); exif[0x0112] = orientation
    file = tmp_path/f'x.{ending}'
    Image.new('RGB', (30, 20)).save(file, exif=exif)
    assert load_image(file).size == image_size(file) == ((20, 30) if orientation > 4 else (30, 20))


@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_truncated_picture_is_found(tmp_path, ending):
    ok = samples(tmp_path, 2)
    bad = Sample(truncate(noise(tmp_path/f'bad.{ending}')), [], [])
    assert check_images(ok) == ok
    said = message(ValueError, check_images, [*ok, bad])
    for piece in (f'bad.{ending}', '1 of 3', 'Replace or remove'): assert piece in said
    assert '0.png' not in said
    assert check_images([*ok, bad], drop_bad=True) == ok
    said = message(ValueError, load_image, bad.path)
    for piece in (f'bad.{ending}', 'cut short', 'replace or remove'): assert piece in said


@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_size_is_read_from_the_head_of_the_file(tmp_path, ending):
    file = truncate(noise(tmp_path/f'x.{ending}', (640, 480)))
    (tmp_path/'x.xml').write_text(voc_xml(file.name, voc_object()))
    sample, = read_voc(tmp_path, None)
    assert image_size(file) == (640, 480)
    said = message(ValueError, check_images, [sample])
    assert file.name in said and 'Replace or remove' in said


@pytest.mark.parametrize('ending', ['jpg', 'png', 'webp', 'tif'])
@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_size_and_pixels_are_turned_alike(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = picture(tmp_path/f'x.{ending}', (64, 48), exif=exif)
    assert image_size(file) == load_image(file).size == ((48, 64) if orientation > 4 else (64, 48))


def test_missing_pictures_are_found(tmp_path):
    said = message(ValueError, check_images, [Sample(tmp_path/f'{i}.jpg', [], []) for i in range(12)])
    assert '12 of 12' in said and '2 more' in said
    assert 'x.jpg' in message(FileNotFoundError, load_image, tmp_path/'x.jpg')


# ---- samples, vocabulary, splits, padding

def test_sample_needs_one_label_per_box():
    for args in [([[0, 0, 1, 1]], []), ([], ['cat']), ([[0, 0, 1, 1]], ['cat'], [True, False])]:
        assert 'x.jpg' in message(ValueError, Sample, 'x.jpg', *args)


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


def test_reading_changes_no_file(tmp_path):
    make_voc(tmp_path/'voc'); make_coco(tmp_path/'coco'/'train.json', tmp_path/'coco'/'train')
    listing = lambda: {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    before = listing()
    read_voc(tmp_path/'voc'); check_images(read_coco(tmp_path/'coco'/'train.json'))
    assert listing() == before
