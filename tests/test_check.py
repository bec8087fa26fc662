import csv
import json
import os
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from makers import (
    coco_dict, lenient, make_coco, make_voc, noise, sized, truncate, voc_object, voc_xml
)
from ssd_tutorial import check
from ssd_tutorial.check import Problem, check_dataset, fix_dataset
from ssd_tutorial.folders import read_folder
from ssd_tutorial.readers import Sample


REVERSED = voc_object(box=(40, 10, 10, 50))


def kinds(checkup): return Counter(p.kind for p in checkup.problems)


def xml(root, *objects, name='00'):
    (root/f'{name}.xml').write_text(voc_xml(f'{name}.png', *objects))


def photographs(root, n=24, seed=0):
    "A Pascal VOC folder without any problem: images of noise, which do not look alike."
    for i in range(n):
        noise(root/f'{i:02}.png', (96, 64), seed=seed + i)
        xml(root, voc_object(box=(50, 20, 90, 60)), name=f'{i:02}')
    return root


def test_nothing_is_wrong_with_a_good_folder(tmp_path):
    checkup = check_dataset(photographs(tmp_path/'set'))
    assert checkup.problems == [] and checkup.must == []
    assert len(checkup.folder.samples) == 24
    assert 'set: 24 usable images; 0 problems must be mended' in repr(checkup)


# what is done to a good folder -> the kind of the problem, and pieces of what is said
MISTAKES = dict(
    reversed=(lambda r: xml(r, REVERSED), 'box', ['reversed', '00.xml']),
    outside=(lambda r: xml(r, voc_object(box=(40, 10, 200, 50))), 'box', ['leaves', '96x64']),
    tiny=(lambda r: xml(r, voc_object(box=(40, 10, 40, 50))), 'tiny', ['1 x 41 pixels']),
    covering=(lambda r: xml(r, voc_object(box=(1, 1, 96, 64))), 'covering', ['whole image']),
    doubled=(lambda r: xml(r, *[voc_object(box=(9, 9, 50, 50))] * 2), 'doubled', ['object 1']),
    no_class=(lambda r: xml(r, voc_object('bg')), 'annotation', ["'bg'", 'rename']),
    spelling=(lambda r: xml(r, voc_object('Cat ')), 'names', ["'Cat'", "'cat'"]),
    size=(lambda r: (r/'00.xml').write_text(sized((640, 480), voc_object(box=(1, 1, 9, 9)),
                                                    name='00.png')),
          'size', ['states a size', '00.xml']),
    empty=(lambda r: xml(r), 'empty', ['1 images have no objects', '00.png']),
    malformed=(lambda r: (r/'00.xml').write_text('<annotation>'), 'annotation', ['not an XML']),
    foreign=(lambda r: (r/'pom.xml').write_text('<project/>'), 'other', ['pom.xml']),
    no_image=(lambda r: (r/'00.png').unlink(), 'annotation', ['image 00.png is missing']),
    no_xml=(lambda r: (r/'00.xml').unlink(), 'unannotated', ['1 images', '00.png']),
    text=(lambda r: (r/'00.png').write_text('text'), 'image', ['not an image', '00.png']),
    cut=(lambda r: truncate(r/'00.png'), 'image', ['cut short', '00.png']))


@pytest.mark.parametrize('name', MISTAKES)
def test_each_mistake_is_found_and_nothing_else(tmp_path, name):
    make, kind, pieces = MISTAKES[name]
    root = photographs(tmp_path/'set')
    make(root)
    checkup = check_dataset(root)
    found = [p for p in checkup.problems if p.kind not in ('rare', 'unseen')]
    assert [p.kind for p in found] == [kind]
    said = f'{found[0]}'
    for piece in pieces: assert piece in said
    assert found[0].must == (kind in ('annotation', 'image', 'box'))
    assert kind in repr(checkup) and found[0].remedy in repr(checkup)


def test_a_png_called_jpg(tmp_path):
    root = photographs(tmp_path/'set')
    (root/'00.png').rename(root/'00.jpg')
    assert kinds(check_dataset(root)) == dict(format=1)


def test_an_image_larger_than_can_be_trusted(tmp_path, monkeypatch):
    root = photographs(tmp_path/'set')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    checkup = check_dataset(root)
    assert kinds(checkup)['image'] == 24 and not checkup.folder.train


def test_few_images_are_told_instead_of_an_error(tmp_path):
    checkup = check_dataset(photographs(tmp_path/'set', n=1))
    assert kinds(checkup) == dict(few=1, rare=1) and len(checkup.folder.train) == 1


def parts(root):
    "Three parts, told by folders."
    for i, name in enumerate(('train', 'valid', 'test')):
        photographs(root/name, 12, 100 * i)
    return root


COLORS = dict(r='red', g='green', b='blue', w='white', y='yellow', k='black')


@pytest.mark.parametrize('change, kind', [
    (lambda im: im, 'leak'), (lambda im: ImageEnhance.Brightness(im).enhance(.9), 'near'),
    (lambda im: im.resize((192, 128)), 'near')])
def test_the_same_image_in_two_parts(tmp_path, change, kind):
    root = parts(tmp_path/'set')
    # noise has no coarse pattern that would stay, so this is an image with some
    image = Image.new('RGB', (96, 64), 'gray')
    draw = ImageDraw.Draw(image)
    for box, color in zip(np.random.default_rng(0).integers(0, 60, (12, 2)), 'rgbwyk' * 2):
        draw.ellipse([*box.tolist(), *(box + 20).tolist()], fill=COLORS[color])
    image.save(root/'train'/'00.png')
    change(image).save(root/'test'/'03.png')
    found = [p for p in check_dataset(root).problems if p.kind in ('leak', 'near', 'copies')]
    assert [p.kind for p in found] == [kind]
    assert {found[0].image.parent.name, found[0].other.parent.name} == {'train', 'test'}


def test_a_copy_in_the_same_part(tmp_path):
    root = parts(tmp_path/'set')
    shutil.copy(root/'train'/'00.png', root/'train'/'01.png')
    assert kinds(check_dataset(root)) == dict(copies=1)


def test_one_file_that_a_link_names_again_is_no_copy(tmp_path):
    root = parts(tmp_path/'set')
    (root/'test'/'00.png').unlink()
    (root/'test'/'00.png').symlink_to(root/'train'/'00.png')
    checkup = check_dataset(root)
    # it stays in one part, and that is told
    assert kinds(checkup) == dict(other=1) and 'came up twice' in checkup.problems[0].problem
    assert len(checkup.folder.train) == 11


@pytest.mark.parametrize('kind', [
    'same_image', 'same_category', 'no_category', 'out', 'number'])
def test_entries_of_a_coco_file(tmp_path, kind):
    "All of them at once, and what is sound is checked all the same."
    coco = coco_dict(24)
    if kind == 'same_image': coco['images'][1]['id'] = coco['images'][0]['id']
    if kind == 'same_category': coco['categories'].append(dict(coco['categories'][0], name='x'))
    if kind == 'no_category': coco['annotations'][0]['category_id'] = 77
    if kind == 'out': coco['images'][1]['file_name'] = '../../etc/passwd'
    if kind == 'number': coco['annotations'][3]['bbox'] = [1, 2, 'x', 4]
    file = make_coco(tmp_path/'set'/'train.json', coco=coco_dict(24))
    file.write_text(json.dumps(coco))
    checkup = check_dataset(tmp_path/'set')
    must = Counter(p.kind for p in checkup.must)
    assert must.keys() == {'annotation'} and must['annotation'] >= 1
    left = lenient(read_folder, tmp_path/'set')
    assert len(left.samples) == len(checkup.folder.samples) >= 22


@pytest.mark.parametrize('written', ['xywh', 'corners', 'shares'])
def test_boxes_in_another_convention(tmp_path, written):
    root = tmp_path/'set'
    if written == 'corners':
        coco = coco_dict(24)
        for a in coco['annotations']: a['bbox'] = [30, 20, 60, 45]
        make_coco(root/'train.json', coco=coco)
    else:
        box = dict(xywh=(50, 30, 20, 25), shares=(.2, .3, .6, .9))[written]
        stems = [f'{i:02}' for i in range(24)]
        make_voc(root, stems, dict(train=stems), [voc_object(box=box)], size=(96, 64))
    said = [str(p) for p in check_dataset(root).must if p.kind == 'convention']
    piece = dict(xywh='x, y, width, height instead', corners='two corners instead of x',
                 shares='like shares')[written]
    assert len(said) == 1 and piece in said[0]


def test_objects_keep_the_numbers_of_their_file(tmp_path):
    root = photographs(tmp_path/'set')
    cat = voc_object("driver's cat", (9, 9, 50, 50))
    dog = voc_object('dog', (60, 9, 80, 50))
    xml(root, voc_object("driver's cat", (40, 10, 10, 50)), cat, REVERSED, dog, cat)
    found = {p.kind: p for p in check_dataset(root).problems if p.kind != 'rare'}
    assert found['doubled'].object == "object 5 (\"driver's cat\")"
    assert found['doubled'].problem == "it lies on object 2 (\"driver's cat\")"


@pytest.mark.parametrize('places', [('train', 'train', 'valid'), ('train', 'valid', 'valid'),
                                    ('test', 'train', 'valid'), ('train', 'train', 'train')])
def test_of_three_copies_one_stays(tmp_path, places):
    root = parts(tmp_path/'set')
    one = noise(tmp_path/'one.png', (96, 64), seed=999)
    for i, name in enumerate(places): shutil.copy(one, root/name/f'{3 + i:02}.png')
    fix_dataset(check_dataset(root), tmp_path/'out')
    left = {name: len(s) for name, s in read_folder(tmp_path/'out').parts.items()}
    assert sum(left.values()) == 34
    first = min(places, key=('test', 'valid', 'train').index)
    assert left[first] == 12 - places.count(first) + 1


def test_ten_thousand_times_the_same_image_is_no_disaster():
    "A film in front of a wall: one partner is enough for each."
    bits = np.zeros((10_000, 64), dtype=bool)
    alike = check._look_alikes(bits, np.arange(10_000) % 2)
    assert len(alike) == 9_999 and set(alike.values()) <= {0, 1}


def test_boxes_in_another_convention_cannot_be_left_out(tmp_path):
    stems = [f'{i:02}' for i in range(24)]
    xywh = voc_object(box=(50, 30, 20, 25))
    root = make_voc(tmp_path/'set', stems, dict(train=stems), [xywh], size=(96, 64))
    with pytest.raises(ValueError, match='x, y, width, height instead.*convert the'):
        fix_dataset(check_dataset(root), tmp_path/'out')
    assert not (tmp_path/'out').exists()


def test_what_is_left_agrees_with_a_lenient_reader(tmp_path):
    root = photographs(tmp_path/'set')
    xml(root, REVERSED, voc_object(box=(1, 1, 40, 50)))
    checkup = check_dataset(root, seed=3)
    folder = lenient(read_folder, root)
    ours = check_dataset(root).folder
    for part, samples in folder.parts.items():
        assert [s.path for s in samples] == [s.path for s in ours.parts[part]]
        for a, b in zip(samples, ours.parts[part]): assert np.array_equal(a.boxes, b.boxes)
    assert [s.path for s in checkup.folder.valid] != [s.path for s in ours.valid]


def test_an_unreadable_image_does_not_change_the_split(tmp_path):
    "`ssd_evaluate` holds out what `ssd_train` has held out."
    root = photographs(tmp_path/'set')
    before = [s.path for s in check_dataset(root).folder.valid]
    truncate(root/'00.png')
    after = [s.path for s in check_dataset(root).folder.valid]
    assert after == [p for p in before if p.name != '00.png']


def test_samples_instead_of_a_folder(tmp_path):
    files = [noise(tmp_path/f'{i}.png', seed=i) for i in range(12)]
    samples = [Sample(f, [[1, 1, 30, 30]], ['cat']) for f in files]
    assert check_dataset(samples).problems == []
    samples[3].boxes[0, 2] = np.nan
    samples[4].labels = ['Cat']
    assert kinds(check_dataset(samples)) == dict(box=1, names=1, rare=1)
    assert kinds(check_dataset([Sample(tmp_path/'none.png', [], [])])) == dict(image=1, few=1)


@pytest.mark.parametrize('content, error', [
    (None, FileNotFoundError), ([], ValueError), (['a.txt'], ValueError)])
def test_no_data_set_at_all(tmp_path, content, error):
    root = tmp_path/'set'
    if content is not None: root.mkdir()
    for name in content or []: (root/name).write_text('x')
    with pytest.raises(error, match='set'): check_dataset(root)


# ---- the table, the picture, the mended copy

def test_a_table_of_all_problems(tmp_path):
    root = photographs(tmp_path/'set')
    for i in range(5): xml(root, REVERSED, name=f'{i:02}')
    checkup = check_dataset(root)
    assert repr(checkup).count('is reversed') == 3 and '... and 2 more' in repr(checkup)
    checkup.save(tmp_path/'p.csv')
    rows = list(csv.DictReader((tmp_path/'p.csv').open()))
    assert len(rows) == len(checkup.problems) and rows[0]['file'] == '00.xml'
    assert rows[0]['object'] == "object 1 ('cat')"
    assert rows[0]['remedy'] == checkup.must[0].remedy


def test_a_picture_of_one_of_each_kind_first(tmp_path):
    root = photographs(tmp_path/'set')
    for i in range(3): xml(root, voc_object('$a$', (40, 10, 10, 50)), name=f'{i:02}')
    truncate(root/'05.png')
    fig = check_dataset(root).show(n=4)
    titles = [ax.get_title().split('\n')[0] for ax in fig.axes]
    assert titles == ['image', 'box', 'box', 'box']
    fig.savefig(tmp_path/'p.png')


def test_what_is_useless_is_left_out_and_nothing_else(tmp_path):
    root = parts(tmp_path/'set')
    cat = voc_object(box=(5, 5, 40, 50))
    dog = voc_object('dog', (5, 5, 40, 50), extra='<difficult>1</difficult>')
    xml(root/'train', REVERSED, cat, cat, dog)
    truncate(root/'train'/'02.png')
    shutil.copy(root/'test'/'00.png', root/'train'/'03.png')
    shutil.copy(root/'valid'/'01.png', root/'valid'/'02.png')
    before = {p: p.read_bytes() for p in root.rglob('*') if p.is_file()}
    checkup = check_dataset(root)
    said = fix_dataset(checkup, tmp_path/'out')
    assert {p: p.read_bytes() for p in root.rglob('*') if p.is_file()} == before
    pieces = '33 images', '1 box', '1 image', '1 doubled', '2 copies'
    for piece in pieces: assert piece in said
    again = check_dataset(tmp_path/'out')
    assert again.must == [] and again.folder.layout == 'COCO, split by names'
    sizes = {name: len(samples) for name, samples in again.folder.parts.items()}
    assert sizes == dict(train=10, valid=11, test=12)
    first = next(s for s in again.folder.train if s.path.name == '00.png')
    assert first.labels == ['cat', 'dog'] and first.difficult == [False, True]
    assert first.path.is_symlink() and first.path.resolve() == root/'train'/'00.png'


def test_images_of_one_name_stay_apart_in_the_mended_copy(tmp_path):
    for i, name in enumerate('ab'):
        photographs(tmp_path/'set'/name, 8, 50 * i)
    fix_dataset(check_dataset(tmp_path/'set'), tmp_path/'out')
    folder = read_folder(tmp_path/'out')
    assert len({s.path.resolve() for s in folder.samples}) == 16


def test_hundreds_of_images_of_one_name(tmp_path):
    "Frames of films: each in a folder of its own."
    for i in range(300): photographs(tmp_path/'set'/f'clip{i:03}', 1, i)
    fix_dataset(check_dataset(tmp_path/'set'), tmp_path/'out')
    assert len({s.path.resolve() for s in read_folder(tmp_path/'out').samples}) == 300


@pytest.mark.parametrize('lost', ['annotation', 'images'])
def test_a_part_that_is_lost_as_a_whole_is_not_left_out(tmp_path, lost):
    "Training would hold out others, and evaluate on other images than everybody thinks."
    root = parts(tmp_path/'set')
    for file in (root/'valid').iterdir():
        if file.suffix == ('.xml' if lost == 'annotation' else '.png'): file.write_text('x')
    checkup = check_dataset(root)
    assert [p.problem for p in checkup.stuck] == ['of the images for valid none can be used']
    with pytest.raises(ValueError, match='for valid none can be used'):
        fix_dataset(checkup, tmp_path/'out')


def test_of_two_copies_the_annotated_one_stays(tmp_path):
    root = parts(tmp_path/'set')
    shutil.copy(root/'train'/'00.png', root/'train'/'01.png')
    xml(root/'train', name='00')
    fix_dataset(check_dataset(root), tmp_path/'out')
    names = [s.path.name for s in read_folder(tmp_path/'out').train]
    assert '01.png' in names and '00.png' not in names


@pytest.mark.skipif(sys.platform != 'linux', reason='names of other systems are UTF-16')
def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    root = photographs(tmp_path/'set')
    name = os.fsdecode(b'f\xe9')
    shutil.copy(root/'00.png', root/f'{name}.jpg')
    (root/f'{name}.xml').write_text(voc_xml('', voc_object(box=(50, 20, 90, 60))))
    checkup = check_dataset(root)
    repr(checkup).encode()
    checkup.save(tmp_path/'p.csv')
    assert 'f\ufffd.jpg' in (tmp_path/'p.csv').read_text(encoding='utf-8')


def test_a_mended_copy_overwrites_nothing(tmp_path):
    checkup = check_dataset(photographs(tmp_path/'set'))
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'mine.txt').write_text('mine')
    with pytest.raises(ValueError, match='out: is there already'):
        fix_dataset(checkup, tmp_path/'out')
    assert [p.name for p in (tmp_path/'out').iterdir()] == ['mine.txt']


def test_every_kind_has_a_remedy():
    problem = Problem('box', 'a.xml', 'it is wrong')
    assert str(problem) == 'a.xml: it is wrong' and problem.must and problem.remedy
