import gc
import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from makers import (
    coco_dict, lenient, make_coco, make_voc, message, noise, picture, samples, truncate,
    voc_object, voc_xml)
from ssd_tutorial.readers import (
    IMAGE_SUFFIXES, Sample, atomic_write, check_images, image_size, load_image, pascal_2007,
    read_coco, read_voc, voc_splits
)


def names(samples): return [s.path.name for s in samples]


# ---- samples

@pytest.mark.parametrize('args', [
    ([[0, 0, 1, 1]], []), ([], ['cat']), ([[0, 0, 1, 1]], ['cat'], [True, False])])
def test_sample_needs_one_label_per_box(args):
    assert 'x.jpg' in message(ValueError, Sample, 'x.jpg', *args)


def test_a_sample_has_plain_flags_and_float_boxes():
    s = Sample('x.jpg', [(1, 2, 3, 4)], ('cat',), [1])
    assert s.difficult == [True] and s.difficult[0] is True
    assert s.boxes.dtype == np.float32 and s.labels == ['cat']
    empty = Sample('x.jpg', [], [])
    assert empty.boxes.shape == (0, 4) and empty.difficult == []


# ---- reading Pascal VOC

INSIDE = ('', 'Annotations', 'JPEGImages', 'ImageSets/Main')


@pytest.mark.parametrize('level', ['VOCdevkit', *[f'VOCdevkit/VOC2007/{d}' for d in INSIDE]])
def test_voc_from_any_level(tmp_path, level):
    make_voc(tmp_path/'VOCdevkit'/'VOC2007')
    train = read_voc(tmp_path/level)
    assert names(train) == ['000001.jpg', '000002.jpg']
    assert len(read_voc(tmp_path/level, None)) == 4
    first = train[0]
    assert first.boxes.tolist() == [[4, 4, 30, 30]]
    assert first.labels == ['cat'] and first.difficult == [False]


def test_voc_two_years_are_joined(tmp_path):
    make_voc(tmp_path/'VOCdevkit'/'VOC2007')
    make_voc(tmp_path/'VOCdevkit'/'VOC2012', ('2012_1', '2012_2', '2012_3'))
    joined = read_voc(tmp_path/'VOCdevkit')
    assert names(joined) == ['000001.jpg', '000002.jpg', '2012_1.jpg']
    assert len(read_voc(tmp_path/'VOCdevkit', 'val')) == 4
    assert names(read_voc(tmp_path/'VOCdevkit'/'VOC2012')) == ['2012_1.jpg']


def test_voc_split_of_one_year_only(tmp_path):
    make_voc(tmp_path/'VOC2007', lists=dict(test=['000004']))
    make_voc(tmp_path/'VOC2012', ('2012_1',), dict(train=['2012_1']))
    assert names(read_voc(tmp_path, 'test')) == ['000004.jpg']


def test_lists_of_one_class_are_no_splits(tmp_path):
    lists = dict.fromkeys(('train', 'val', 'cat_train', 'cat_val', 'my_own'), ['000001'])
    make_voc(tmp_path, lists=lists)
    assert voc_splits(tmp_path) == ['my_own', 'train', 'val']
    assert voc_splits(tmp_path/'Annotations') == ['my_own', 'train', 'val']


@pytest.mark.parametrize('extra, difficult', [
    ('', False),
    ('<difficult>1</difficult>', True),
    ('<difficult> 0 </difficult><pose/>', False)])
def test_voc_optional_fields_and_float_coordinates(tmp_path, extra, difficult):
    make_voc(tmp_path, objects=[voc_object(' cat ', (1.5, 2.25, '30.0', ' 40 '), extra=extra)])
    s = read_voc(tmp_path)[0]
    assert s.boxes.tolist() == [[.5, 1.25, 30, 40]]
    assert s.labels == ['cat'] and s.difficult == [difficult]


@pytest.mark.parametrize('filename', ['000001', '', '/home/someone/000001.jpg', 'renamed.jpg'])
def test_voc_file_names_that_are_not_quite_right(tmp_path, filename):
    make_voc(tmp_path)
    (tmp_path/'Annotations'/'000001.xml').write_text(voc_xml(filename, voc_object()))
    assert read_voc(tmp_path)[0].path == tmp_path/'JPEGImages'/'000001.jpg'


@pytest.mark.parametrize('filename', ['000001', '000001.png'])
def test_voc_annotation_of_another_name_without_the_right_ending(tmp_path, filename):
    (make_voc(tmp_path)/'Annotations'/'000001.xml').rename(tmp_path/'Annotations'/'first.xml')
    text = voc_xml(filename, voc_object('dog'))
    (tmp_path/'Annotations'/'first.xml').write_text(text)
    dogs = [s for s in read_voc(tmp_path, None) if s.labels == ['dog']]
    assert names(dogs) == ['000001.jpg']


@pytest.mark.parametrize('suffix', sorted(IMAGE_SUFFIXES))
def test_voc_annotations_beside_the_images(tmp_path, suffix):
    for i in range(3):
        picture(tmp_path/f'{i}{suffix}')
        (tmp_path/f'{i}.xml').write_text(voc_xml(f'{i}{suffix}', *[voc_object()] * i))
    assert [len(s.boxes) for s in read_voc(tmp_path, None)] == [0, 1, 2]


def first_xml(*objects): return voc_xml('000001.jpg', *objects)


NOT_XML = ['000001.xml', 'not an XML file']
DOG = ['000001.xml', 'object 1', "'dog'"]
DOG_2 = ['000001.xml', 'object 2', "'dog'"]
VOC_FAULTS = {    # what is wrong: XML of image 000001, pieces of the message
    'not_xml': ('this is no XML', NOT_XML),
    'cut_short': ('<annotation><object>', NOT_XML),
    'empty': ('', NOT_XML),
    'no_bndbox': (
        first_xml(voc_object(), voc_object('dog', bndbox='')), [*DOG_2, 'bndbox needs']),
    'not_a_number': (
        first_xml(voc_object('dog', ('left', 5, 30, 30))),
        [*DOG, 'numbers xmin, ymin, xmax, ymax']),
    'no_name': (first_xml(voc_object('')), ['000001.xml', 'object 1: has no name']),
    'reversed': (
        first_xml(voc_object(), voc_object('dog', (30, 5, 20, 9))),
        [*DOG_2, 'reversed', '(29, 4, 20, 9)']),
    'outside': (first_xml(voc_object('dog', (5, 5, 90, 30))), [*DOG, 'leaves the 64x48 image']),
    'no_area': (first_xml(voc_object('dog', (6, 6, 5, 30))), [*DOG, 'no area']),
    'nan': (first_xml(voc_object('dog', (5, 'nan', 30, 30))), [*DOG, 'not finite'])}


@pytest.mark.parametrize('fault', VOC_FAULTS)
def test_voc_faults(tmp_path, fault):
    xml, pieces = VOC_FAULTS[fault]
    make_voc(tmp_path)
    (tmp_path/'Annotations'/'000001.xml').write_text(xml)
    said = message(ValueError, read_voc, tmp_path)
    for piece in [*pieces, '1 faults', 'drop_bad']: assert piece in said
    assert '000002' not in said
    left = lenient(read_voc, tmp_path)
    assert [s.labels for s in left if s.path.name == '000002.jpg'] == [['cat']]
    for s in left: assert set(s.labels) <= {'cat'}


@pytest.mark.parametrize('remove, pieces', [
    ('JPEGImages/000001.jpg', ['000001.xml', '000001.jpg', 'missing']),
    ('Annotations/000001.xml', ['000001.xml', 'no such annotation'])])
def test_voc_missing_files(tmp_path, remove, pieces):
    (make_voc(tmp_path)/remove).unlink()
    said = message(ValueError, read_voc, tmp_path)
    for piece in [*pieces, 'drop_bad']: assert piece in said
    assert names(lenient(read_voc, tmp_path)) == ['000002.jpg']


def test_text_named_jpg(tmp_path):
    (make_voc(tmp_path)/'JPEGImages'/'000001.jpg').write_text('not a picture')
    said = message(ValueError, read_voc, tmp_path)
    for piece in ('000001.jpg', 'not an image', 'drop_bad'): assert piece in said
    assert names(lenient(read_voc, tmp_path)) == ['000002.jpg']
    file = tmp_path/'JPEGImages'/'000001.jpg'
    assert '000001.jpg' in message(ValueError, load_image, file)


def test_all_faults_are_counted_and_ten_shown(tmp_path):
    stems = [f'{i:03d}' for i in range(14)]
    objects = [voc_object(), voc_object('dog', (9, 9, 5, 5))]
    make_voc(tmp_path, stems, dict(train=stems), objects)
    said = message(ValueError, read_voc, tmp_path)
    assert '14 faults' in said and said.count('reversed') == 10 and '4 more' in said
    assert [s.labels for s in lenient(read_voc, tmp_path)] == [['cat']] * 14


def test_leaving_out_a_bad_object_keeps_the_flags_of_the_others(tmp_path):
    hard = '<difficult>1</difficult>'
    bad = voc_object('dog', (9, 9, 5, 5))
    make_voc(tmp_path, objects=[bad, voc_object('cat', extra=hard), voc_object('cow')])
    s = lenient(read_voc, tmp_path)[0]
    assert s.labels == ['cat', 'cow'] and s.difficult == [True, False] and len(s.boxes) == 2


def test_a_box_on_the_edge_is_clipped_not_refused(tmp_path):
    make_voc(tmp_path, objects=[voc_object(box=(0, 0, 65, 49))])
    assert read_voc(tmp_path)[0].boxes.tolist() == [[0, 0, 64, 48]]


def test_folders_that_are_no_voc_tree(tmp_path):
    assert 'nowhere: no such folder' in message(FileNotFoundError, read_voc, tmp_path/'nowhere')
    (tmp_path/'holiday').mkdir()
    (tmp_path/'holiday'/'notes.txt').write_text('')
    said = message(ValueError, read_voc, tmp_path/'holiday')
    for piece in ('holiday', 'not a Pascal VOC tree', 'Annotations/*.xml', 'notes.txt'):
        assert piece in said
    (tmp_path/'empty').mkdir()
    assert 'nothing' in message(ValueError, read_voc, tmp_path/'empty')


def test_unknown_split_names_the_splits_found(tmp_path):
    said = message(ValueError, read_voc, make_voc(tmp_path), 'test')
    for piece in (str(tmp_path), 'test.txt', "['train', 'val']", 'split=None'):
        assert piece in said


def test_nothing_annotated(tmp_path):
    root = make_voc(tmp_path, lists=dict(train=[]))
    assert 'no annotated image' in message(ValueError, read_voc, root)


# ---- reading COCO

@pytest.mark.parametrize('file, images', [
    ('set/train.json', 'set/train'),
    ('set/train.json', 'set'),
    ('set/annotations.json', 'set/images'),
    ('set/annotations/train.json', 'set/train'),
    ('set/annotations/instances_train2017.json', 'set/train2017'),
    ('set/annotations/train.json', 'set/images/train'),
    ('set/annotations/all.json', 'set/images'),
    ('set/train/_annotations.coco.json', 'set/train')])
def test_coco_finds_its_images(tmp_path, file, images):
    got = read_coco(make_coco(tmp_path/file, tmp_path/images))
    assert [s.path for s in got] == [tmp_path/images/f'{i}.jpg' for i in range(3)]
    assert got[1].boxes.tolist() == [[4, 5, 24, 30]]
    assert [s.labels for s in got] == [['cat'], ['dog'], ['cat']]


def test_coco_images_where_only_the_caller_knows(tmp_path):
    file = make_coco(tmp_path/'a'/'x.json', tmp_path/'elsewhere')
    said = message(ValueError, read_coco, file)
    for piece in ('x.json', '0.jpg', 'images='): assert piece in said
    assert len(read_coco(file, tmp_path/'elsewhere')) == 3
    said = message(FileNotFoundError, read_coco, file, tmp_path/'nowhere')
    assert 'no such folder' in said


def test_coco_keeps_empty_images_and_difficult_objects(tmp_path):
    coco = coco_dict(4)
    first, _, third, _ = coco['annotations']
    coco['annotations'] = [dict(first, iscrowd=1), dict(first, ignore=1), first, third]
    got = read_coco(make_coco(tmp_path/'x.json', coco=coco))
    assert [len(s.boxes) for s in got] == [3, 0, 1, 0]
    assert got[0].difficult == [True, True, False]


@pytest.mark.parametrize('text', [
    '{"images": [', '[]', '3', '', 'null', '"images"', '{"images": [], "annotations": []}',
    '{"images": 1, "annotations": [], "categories": []}'])
def test_files_that_are_not_coco(tmp_path, text):
    (tmp_path/'x.json').write_text(text)
    said = message(ValueError, read_coco, tmp_path/'x.json')
    for piece in ('x.json', 'not a COCO file', 'images, annotations and categories'):
        assert piece in said
    assert 'y.json' in message(FileNotFoundError, read_coco, tmp_path/'y.json')


SECOND = ['1.jpg', 'object 1', "'dog'"]
COCO_FAULTS = {    # what annotation 101 gets, pieces of the message
    'image_id': (dict(image_id=77), ['annotation 101', 'no image 77']),
    'category_id': (dict(category_id=77), ['annotation 101', 'no category 77']),
    'bbox_short': (dict(bbox=[1, 2, 3]), ['annotation 101', 'bbox', '[1, 2, 3]']),
    'bbox_none': (dict(bbox=None), ['annotation 101', 'bbox']),
    'bbox_text': (dict(bbox=[1, 2, 'three', 4]), ['annotation 101', 'bbox']),
    'bbox_null': (dict(bbox=[1, 2, None, 4]), ['annotation 101', 'bbox']),
    'reversed': (dict(bbox=[20, 20, -5, 5]), [*SECOND, 'reversed']),
    'outside': (dict(bbox=[20, 20, 60, 5]), [*SECOND, 'leaves the 64x48 image']),
    'no_area': (dict(bbox=[20, 20, 0, 5]), [*SECOND, 'no area'])}


@pytest.mark.parametrize('fault', COCO_FAULTS)
def test_coco_faults(tmp_path, fault):
    change, pieces = COCO_FAULTS[fault]
    coco = coco_dict()
    coco['annotations'][1].update(change)
    file = make_coco(tmp_path/'x.json', coco=coco)
    said = message(ValueError, read_coco, file)
    for piece in ['x.json', '1 faults', 'drop_bad', *pieces]: assert piece in said
    assert [s.labels for s in lenient(read_coco, file)] == [['cat'], [], ['cat']]


def test_coco_missing_image(tmp_path):
    file = make_coco(tmp_path/'x.json')
    (tmp_path/'1.jpg').unlink()
    said = message(ValueError, read_coco, file)
    for piece in ('x.json', '1.jpg', 'no such image', 'drop_bad'): assert piece in said
    assert names(lenient(read_coco, file)) == ['0.jpg', '2.jpg']


@pytest.mark.parametrize('part, key', [
    ('images', 'id'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name')])
def test_coco_entry_without_a_key(tmp_path, part, key):
    file = make_coco(tmp_path/'x.json')
    coco = coco_dict()
    del coco[part][1][key]
    file.write_text(json.dumps(coco))
    said = message(ValueError, read_coco, file)
    assert f'{file}: entry 2 of {part} has no {key}' in said


def test_pascal_2007_is_what_fastai_reads(tmp_path, monkeypatch):
    from fastai.data import external
    from fastai.vision.data import get_annotations
    coco = coco_dict(5)
    again = dict(coco['annotations'][1], id=999, bbox=[30, 2, 9.5, 8.25], category_id=1)
    coco['annotations'].append(again)
    make_coco(tmp_path/'pascal'/'train.json', tmp_path/'pascal'/'train', coco=coco)
    asked = []
    def fake(url, *args, **kwargs):
        asked.append(url)
        return tmp_path/'pascal'
    monkeypatch.setattr(external, 'untar_data', fake)
    files, annotations = get_annotations(tmp_path/'pascal'/'train.json')
    got = pascal_2007()
    assert asked == [external.URLs.PASCAL_2007]
    assert names(got) == list(files) and all(s.path.is_file() for s in got)
    assert [(s.boxes.tolist(), s.labels) for s in got] == [tuple(a) for a in annotations]
    assert 'val2' in message(ValueError, pascal_2007, 'val2')


# ---- images

def modes():
    "File name -> image, its colour as RGB, and how to save it."
    palette = Image.new('P', (8, 6), 1)
    palette.putpalette([0, 0, 0, 200, 50, 25])
    white = (255, 255, 255)
    clear = dict(transparency=1)
    return {
        '1.png': (Image.new('1', (8, 6), 1), white, {}),
        'L.png': (Image.new('L', (8, 6), 100), (100, 100, 100), {}),
        'LA.png': (Image.new('LA', (8, 6), (9, 0)), white, {}),
        'P.png': (palette, (200, 50, 25), {}),
        'RGB.png': (Image.new('RGB', (8, 6), (1, 2, 3)), (1, 2, 3), {}),
        'RGBA.png': (Image.new('RGBA', (8, 6), (255, 0, 0, 0)), white, {}),
        'RGBA2.png': (Image.new('RGBA', (8, 6), (10, 20, 30, 255)), (10, 20, 30), {}),
        'I16.png': (Image.fromarray(np.full((6, 8), 65535, np.uint16)), white, {}),
        'Pclear.png': (palette, white, clear),
        'Pclear.gif': (palette, white, clear),
        'CMYK.jpg': (
            Image.new('CMYK', (8, 6), (0, 255, 255, 0)), (255, 0, 0), dict(quality=100))}


@pytest.mark.parametrize('name', modes())
def test_images_of_every_mode_are_rgb(tmp_path, name):
    im, rgb, how = modes()[name]
    im.save(tmp_path/name, **how)
    stored = Image.open(tmp_path/name).mode
    assert name != 'CMYK.jpg' or stored == 'CMYK'
    assert name != 'I16.png' or stored.startswith('I')
    got = load_image(tmp_path/name)
    assert got.mode == 'RGB' and got.size == (8, 6) == image_size(tmp_path/name)
    assert np.abs(np.asarray(got, int) - rgb).max() <= 4, got.getpixel((0, 0))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('ending', ['jpg', 'png', 'webp', 'tif'])
def test_exif_turns_image_and_size_alike(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = picture(tmp_path/f'x.{ending}', (30, 20), exif=exif)
    upright = (20, 30) if orientation > 4 else (30, 20)
    assert load_image(file).size == image_size(file) == upright


@pytest.mark.parametrize('ending', ['jpg', 'png', 'tif', 'gif', 'webp'])
@pytest.mark.parametrize('orientation', [1, 6])
def test_no_file_is_left_open(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {} if ending == 'gif' else dict(exif=exif)
    file = picture(tmp_path/f'x.{ending}', **how)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        image_size(file)
        load_image(file)
        check_images([Sample(file, [], [])])
        gc.collect()
    assert [w for w in caught if w.category is ResourceWarning] == []


@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_truncated_image_is_found(tmp_path, ending):
    ok = samples(tmp_path, 2)
    bad = Sample(truncate(noise(tmp_path/f'bad.{ending}')), [], [])
    assert check_images(ok) == ok
    said = message(ValueError, check_images, [*ok, bad])
    for piece in (f'bad.{ending}', '1 of 3', 'Replace or remove'): assert piece in said
    assert '0.png' not in said and said.count(str(bad.path)) == 1
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


def test_missing_images_are_found(tmp_path):
    missing = [Sample(tmp_path/f'{i}.jpg', [], []) for i in range(12)]
    said = message(ValueError, check_images, missing)
    assert '12 of 12' in said and '2 more' in said
    assert 'x.jpg' in message(FileNotFoundError, load_image, tmp_path/'x.jpg')


# ---- files

def test_reading_changes_no_file(tmp_path):
    make_voc(tmp_path/'voc')
    make_coco(tmp_path/'coco'/'train.json', tmp_path/'coco'/'train')
    def listing(): return {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    before = listing()
    read_voc(tmp_path/'voc')
    check_images(read_coco(tmp_path/'coco'/'train.json'))
    assert listing() == before


def write_file(path, text): path.write_text(text)


def write_folder(path, text):
    path.mkdir()
    (path/'a.txt').write_text(text)


@pytest.mark.parametrize('write', [write_file, write_folder])
@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_what_was_interrupted_is_not_there(tmp_path, write, error):
    with pytest.raises(error), atomic_write(tmp_path/'x.json') as part:
        write(part, 'half')
        raise error
    assert list(tmp_path.iterdir()) == []
    with atomic_write(tmp_path/'x.json') as part: write(part, 'whole')
    assert [p.name for p in tmp_path.iterdir()] == ['x.json']


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    file = tmp_path/'x.json'
    file.write_text('old')
    with pytest.raises(OSError), atomic_write(file) as part:
        part.write_text('half')
        raise OSError
    assert file.read_text() == 'old'
    with atomic_write(file) as part:
        part.write_text('new')
        # writers choose the format by the ending; processes do not share a name
        assert part.suffix == '.json' and str(os.getpid()) in part.name
        assert file.read_text() == 'old'
    assert file.read_text() == 'new' and [p.name for p in tmp_path.iterdir()] == ['x.json']
