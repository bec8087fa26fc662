"""Files that mean harm, or that no tool should have written: whatever they hold, the readers
raise nothing but errors that name the file, and take nothing for what it is not."""
import json
import os
import random
import struct
import zlib

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from makers import (
    coco_dict, lenient, make_coco, make_voc, message, noise, picture, voc_object, voc_xml)
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import score_detections
from ssd_tutorial.predict import Detections
from ssd_tutorial.readers import (
    Sample, atomic_write, check_images, image_size, load_image, read_coco, read_voc,
    read_yolo
)

few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ---- images

EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n'
READERS = [image_size, load_image, lambda p: check_images([Sample(p, [], [])])]
each_reader = pytest.mark.parametrize('read', READERS)


def png_of(width, height):
    "The head of a PNG of this size; its pixels are missing."
    head = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack('>I', 13) + head + struct.pack('>I', zlib.crc32(head))
    return b'\x89PNG\r\n\x1a\n' + chunk


@each_reader
@pytest.mark.parametrize('content', [
    EPS, png_of(50_000, 50_000), png_of(0, 3), b'\x89PNG\r\n\x1a\n', b'%PDF-1.4\n', b'',
    b'<svg xmlns="http://www.w3.org/2000/svg"/>', b'GIF89a', b'RIFF\x00\x00\x00\x00WEBP'])
def test_what_is_no_photograph_is_named(tmp_path, read, content):
    file = tmp_path/'photo.jpg'
    file.write_bytes(content)
    assert 'photo.jpg' in message(ValueError, read, file)


def test_no_program_is_run(tmp_path, monkeypatch):
    "An EPS file is a program, for which Pillow would start Ghostscript."
    started = []
    monkeypatch.setattr('subprocess.check_call', lambda *args, **kwargs: started.append(args))
    monkeypatch.setattr('subprocess.Popen', lambda *args, **kwargs: started.append(args))
    (tmp_path/'photo.jpg').write_bytes(EPS)
    for read in READERS: message(ValueError, read, tmp_path/'photo.jpg')
    assert not started


@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp'])
def test_damaged_exif_says_nothing(tmp_path, ending):
    file = picture(tmp_path/f'x.{ending}', (40, 30), exif=b'Exif\0\0garbage!garbage!')
    assert image_size(file) == load_image(file).size == (40, 30)
    assert len(check_images([Sample(file, [], [])])) == 1


@few
@given(st.sampled_from(['png', 'jpg', 'gif', 'tif', 'webp', 'bmp']),
       st.lists(st.tuples(st.floats(0, .999), st.integers(0, 255)), min_size=1, max_size=6))
def test_bytes_of_images(tmp_path, ending, changes):
    file = noise(tmp_path/f'x.{ending}', (24, 16))
    content = bytearray(file.read_bytes())
    for place, byte in changes: content[int(place * len(content))] = byte
    file.write_bytes(content)
    for read in READERS:
        try: read(file)
        except ValueError as e: assert file.name in str(e)


def test_one_oversized_image_does_not_end_everything(tmp_path):
    file = make_coco(tmp_path/'x.json')
    (tmp_path/'1.jpg').write_bytes(png_of(50_000, 50_000))
    assert '1.jpg' in message(ValueError, read_coco, file)
    left = lenient(read_coco, file)
    assert [s.path.name for s in left] == ['0.jpg', '2.jpg']


# ---- class names

@pytest.mark.parametrize('name', [
    'no\u00a0break', 'あ\u3000い', 'می\u200cخواهم', '👨\u200d👩', 'soft\u00adhyphen', 'cat'])
def test_class_names_in_all_scripts(name):
    assert Sample('x.jpg', [[0, 0, 1, 1]], [name]).labels == [name]


def test_what_tools_write_and_does_no_harm_is_read(tmp_path):
    coco = coco_dict()
    # whole numbers as pandas writes them, a category that is there twice, a blank at the end
    for part in ('images', 'categories'):
        for entry in coco[part]: entry['id'] = float(entry['id'])
    coco['categories'].append(dict(coco['categories'][0]))
    for entry in coco['categories']: entry['name'] += '\n'
    found, plain = [read_coco(make_coco(tmp_path/name, coco=given))
                    for name, given in (('x.json', coco), ('y.json', coco_dict()))]
    assert [s.labels for s in found] == [s.labels for s in plain]


BAD_NAMES = ['bg', '', '  ', 'a\nb', 'a\0b', '\u202ecat']


@pytest.mark.parametrize('name', BAD_NAMES)
def test_class_names_that_cannot_be(tmp_path, name):
    assert 'x.jpg' in message(ValueError, Sample, 'x.jpg', [[0, 0, 1, 1]], [name])
    coco = coco_dict()
    coco['categories'][0]['name'] = name
    file = make_coco(tmp_path/'coco'/'x.json', coco=coco)
    assert 'x.json' in message(ValueError, read_coco, file)
    images = [picture(tmp_path/'yolo'/'a.png')]
    assert 'the class' in message(ValueError, read_yolo, images, {0: name})


@pytest.mark.parametrize('name', ['bg', '', '  '])
def test_class_names_of_voc_that_cannot_be(tmp_path, name):
    make_voc(tmp_path, objects=[voc_object(), voc_object(name)])
    assert '000001.xml' in message(ValueError, read_voc, tmp_path)


def test_a_class_called_bg_no_longer_deletes_the_others(tmp_path):
    make_voc(tmp_path, objects=[voc_object('bg'), voc_object('cat')])
    said = message(ValueError, read_voc, tmp_path)
    for piece in ('000001.xml', 'object 1', "'bg'", 'rename'): assert piece in said


# ---- annotation files

LONG = 'x' * 300
WRONG = [    # part, what its second entry becomes, pieces of the message
    ('annotations', 'x', "annotation 2: 'x' is none"),
    ('annotations', dict(id=7, image_id=[1]), 'annotation 7'),
    ('annotations', dict(id=7, category_id={}), 'annotation 7'),
    ('annotations', dict(id=7, bbox=[0, 0, 10**400, 1]), 'bbox'),
    ('annotations', dict(id=7, bbox=[True, 0, 9, 9]), 'bbox'),
    ('images', 1, 'entry 2 of images is 1'),
    ('images', dict(id=[1], file_name='1.jpg'), 'entry 2 of images has the id [1]'),
    ('images', dict(id=0, file_name='1.jpg'), 'of another one'),
    ('images', dict(id=1, file_name=None), 'file_name None'),
    ('images', dict(id=1, file_name=LONG), 'does not lie in the folder'),
    ('images', dict(id=1, file_name='/etc/passwd'), 'does not lie in the folder'),
    ('images', dict(id=1, file_name='../1.jpg'), 'does not lie in the folder'),
    ('images', dict(id=1, file_name='..\\1.jpg'), 'does not lie in the folder'),
    ('images', dict(id=1, file_name=''), 'does not lie in the folder'),
    ('categories', None, 'entry 2 of categories is None'),
    ('categories', dict(id=dict(), name='a'), 'entry 2 of categories has the id {}'),
    ('categories', dict(id=2, name=5), 'entry 2 of categories the class 5'),
    ('categories', dict(id=1, name='fox'), 'of another one')]


@pytest.mark.parametrize('part, entry, said', WRONG)
def test_entries_of_coco_that_are_none(tmp_path, part, entry, said):
    coco = coco_dict()
    if part == 'categories': coco['categories'][0]['id'] = 1
    if part == 'images': coco['images'][0]['id'] = 0
    old = coco[part][1] if part == 'annotations' else {}
    coco[part][1] = {**old, **entry} if isinstance(entry, dict) else entry
    file = make_coco(tmp_path/'x.json')
    file.write_text(json.dumps(coco))
    text = message(ValueError, read_coco, file)
    assert 'x.json' in text
    assert said in text


@pytest.mark.parametrize('content', [
    b'[' * 200_000, b'\xff\xfe\x00', b'\xef\xbb\xbf', b'{"images": [}'])
def test_texts_that_are_no_json(tmp_path, content):
    (tmp_path/'x.json').write_bytes(content)
    said = message(ValueError, read_coco, tmp_path/'x.json')
    for piece in ('x.json', 'not a COCO file'): assert piece in said


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_json_in_every_encoding_it_may_have(tmp_path, encoding):
    file = make_coco(tmp_path/'x.json')
    file.write_text(json.dumps(coco_dict(), ensure_ascii=False), encoding=encoding)
    assert len(read_coco(file)) == 3


def test_folders_written_by_windows(tmp_path):
    coco = coco_dict()
    coco['images'][1]['file_name'] = 'deep\\1.jpg'
    file = make_coco(tmp_path/'x.json')
    file.write_text(json.dumps(coco))
    picture(tmp_path/'deep'/'1.jpg')
    assert read_coco(file)[1].path == tmp_path/'deep'/'1.jpg'


@pytest.mark.parametrize('xml, said', [
    ('<foo/>', 'not an annotation as in Pascal VOC, but <foo>'),
    ('<annotation xmlns="urn:x"/>', 'not an annotation'),
    ('<?xml version="1.0" encoding="foo"?><annotation/>', 'not an XML file'),
    ('<?xml version="1.0" encoding="gb2312"?><annotation/>', 'not an XML file'),
    (voc_xml('000001.jpg', voc_object().replace('</bndbox>', '</bndbox><bndbox/>')),
     'has two bndbox')])
def test_xml_that_is_no_annotation(tmp_path, xml, said):
    make_voc(tmp_path)
    (tmp_path/'Annotations'/'000001.xml').write_text(xml)
    text = message(ValueError, read_voc, tmp_path)
    for piece in ('000001.xml', said): assert piece in text
    assert [s.path.name for s in lenient(read_voc, tmp_path)][-1] == '000002.jpg'


def test_a_list_that_is_no_text(tmp_path):
    make_voc(tmp_path)
    (tmp_path/'ImageSets'/'Main'/'train.txt').write_bytes(b'000001\n\xff\n')
    assert 'train.txt' in message(ValueError, read_voc, tmp_path)


def test_an_image_listed_twice_is_read_once(tmp_path):
    make_voc(tmp_path, lists=dict(train=['000001', '000002', '000001']))
    assert len(read_voc(tmp_path)) == 2


def test_annotations_in_subfolders_are_read(tmp_path):
    make_voc(tmp_path)
    deep = tmp_path/'Annotations'/'deep'
    deep.mkdir()
    for stem in ('000002', '000003'):
        os.replace(tmp_path/'Annotations'/f'{stem}.xml', deep/f'{stem}.xml')
    assert len(read_voc(tmp_path, None)) == 4
    assert [s.path.stem for s in read_voc(tmp_path, 'train')] == ['000001', '000002']


def test_files_of_one_name_in_two_subfolders(tmp_path):
    make_voc(tmp_path, stems=['a', 'b'], lists={})
    for name, box in dict(a=(1, 1, 9, 9), b=(5, 5, 30, 30)).items():
        deep = tmp_path/'Annotations'/name
        deep.mkdir()
        os.remove(tmp_path/'Annotations'/f'{name}.xml')
        text = voc_xml(f'{name}.jpg', voc_object(box=box))
        (deep/'000000.xml').write_text(text)
    (tmp_path/'ImageSets'/'Main'/'train.txt').write_text('a/000000\nb/000000\n')
    assert [s.boxes.tolist() for s in read_voc(tmp_path)] == [[[0, 0, 9, 9]], [[4, 4, 30, 30]]]


def test_files_below_two_folders_are_read_once(tmp_path):
    for folder in (tmp_path, tmp_path/'deep'):
        picture(folder/f'{folder.name}.jpg')
        (folder/'x.xml').write_text(voc_xml(f'{folder.name}.jpg', voc_object()))
    assert len(read_voc(tmp_path, None)) == 2


@pytest.mark.parametrize('flag, difficult', [
    ('1', True), ('true', True), ('True', True), ('0', False), ('no', False), ('', False)])
def test_flags_of_voc(tmp_path, flag, difficult):
    extra = f'<difficult>{flag}</difficult>'
    make_voc(tmp_path, objects=[voc_object(extra=extra)])
    assert read_voc(tmp_path)[0].difficult == [difficult]


@pytest.mark.parametrize('flag, difficult', [
    (1, True), (True, True), (0, False), ('no', False)])
def test_flags_of_coco(tmp_path, flag, difficult):
    coco = coco_dict()
    coco['annotations'][0]['ignore'] = flag
    assert read_coco(make_coco(tmp_path/'x.json', coco=coco))[0].difficult[0] == difficult


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(), st.text(),
                  st.lists(st.integers(), max_size=4), st.dictionaries(st.text(), st.none()))


@few
@given(st.sampled_from(['images', 'annotations', 'categories']), st.integers(0, 1),
       st.sampled_from([None, 'id', 'file_name', 'name', 'bbox', 'image_id', 'category_id',
                        'width', 'ignore', 'iscrowd']), PLAIN)
def test_any_value_at_any_place_of_coco(tmp_path, part, i, key, value):
    coco = coco_dict()
    if key is None: coco[part][i] = value
    else: coco[part][i][key] = value
    file = make_coco(tmp_path/'x.json')
    file.write_text(json.dumps(coco))
    try: found = read_coco(file, tmp_path)
    except ValueError as e: assert 'x.json' in str(e)
    else:
        for s in found:
            assert s.path.resolve().is_relative_to(tmp_path)
            assert all(isinstance(label, str) and label.strip() for label in s.labels)


@few
@given(st.lists(st.tuples(st.floats(0, .999), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_of_xml(tmp_path, changes):
    make_voc(tmp_path, stems=['000001'], lists=dict(train=['000001']))
    file = tmp_path/'Annotations'/'000001.xml'
    content = bytearray(file.read_bytes())
    for place, byte in changes: content[int(place * len(content))] = byte
    file.write_bytes(content)
    try: read_voc(tmp_path)
    except ValueError as e: assert '000001' in str(e)


# ---- writing

def test_a_link_stays_a_link_and_rights_stay(tmp_path):
    target = tmp_path/'target.txt'
    target.write_text('old')
    target.chmod(0o600)
    (tmp_path/'link.txt').symlink_to(target)
    with atomic_write(tmp_path/'link.txt') as part: part.write_text('new')
    assert (tmp_path/'link.txt').is_symlink()
    assert target.read_text() == 'new'
    assert target.stat().st_mode & 0o777 == 0o600


# ---- drawing

FORMULA = '$\\bad$'


def test_a_class_that_looks_like_a_formula_is_drawn_as_it_is(tmp_path):
    vocab = Vocab([FORMULA])
    sample = Sample(picture(tmp_path/f'{FORMULA}.png'), [[5, 5, 30, 30]], [FORMULA])
    found = [Detections(sample.boxes, [FORMULA], np.array([.9]), load_image(sample.path))]
    report = score_detections(found, [sample], vocab)
    for figure in (report.plot(), found[0].show(title=sample.path.name).figure):
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize('turn', range(2, 9))
def test_damaged_exif_does_not_keep_an_image_from_being_read(tmp_path, turn):
    "Pillow's own turning writes EXIF anew, which fails where it is damaged."
    image = Image.open(noise(tmp_path/'x.png', (40, 24)))
    exif = image.getexif()
    exif[0x0112] = turn
    exif[0x010e] = 'a description that is long enough to be stored outside'
    image.save(tmp_path/'x.jpg', exif=exif)
    content = (tmp_path/'x.jpg').read_bytes()
    want = ImageOps.exif_transpose(Image.open(tmp_path/'x.jpg')).convert('RGB')
    assert list(load_image(tmp_path/'x.jpg').getdata()) == list(want.getdata())
    begin = content.index(b'\xff\xe1')
    end = begin + 2 + int.from_bytes(content[begin + 2:begin + 4], 'big')
    rng = random.Random(turn)
    for _ in range(200):
        # behind the name and the order of bytes, up to the next part of the file
        at = rng.randrange(begin + 18, end - 2)
        (tmp_path/'x.jpg').write_bytes(content[:at] + rng.randbytes(2) + content[at + 2:])
        assert sorted(load_image(tmp_path/'x.jpg').size) == [24, 40]


def test_a_path_of_thousands_of_folders(tmp_path):
    coco = coco_dict(3)
    coco['images'][1]['file_name'] = 'a/' * 2500 + 'x.jpg'
    (tmp_path/'0.jpg').write_bytes(noise(tmp_path/'n.png').read_bytes())
    (tmp_path/'t.json').write_text(json.dumps(coco))
    said = message(ValueError, read_coco, tmp_path/'t.json')
    assert 'entry 2 of images has the file_name' in said
