import contextlib
import json
import os
import shutil
import warnings

import pytest
from PIL import Image

from makers import coco_dict, lenient, make_coco, make_voc, picture, sized, voc_object, voc_xml
from ssd_tutorial.folders import read_folder, split_of
from ssd_tutorial.readers import load_image, read_coco, read_voc, read_yolo, walk_folders

COCO_LAYOUTS = [
    (('train.json', 'train'), ('valid.json', 'valid')),
    (('annotations/instances_train2017.json', 'train2017'),
     ('annotations/instances_val2017.json', 'val2017')),
    (('annotations/instances_Train.json', 'images/Train'),
     ('annotations/instances_Val.json', 'images/Val')),
    (('train/_annotations.coco.json', 'train'), ('valid/_annotations.coco.json', 'valid'))]
ROW = '0 0.25 0.5 0.25 0.5\n'
YAML = 'train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat, dog]\n'


def names(part): return sorted(s.path.stem for s in part)


def sizes(root, **kwargs):
    folder = read_folder(root, **kwargs)
    return len(folder.train), len(folder.valid), len(folder.test)


def xml(image, annotation, *objects):
    "A picture and its annotation."
    picture(image)
    annotation.parent.mkdir(parents=True, exist_ok=True)
    annotation.write_text(voc_xml(image.name, *(objects or [voc_object()])), encoding='utf-8')


def voc_part(images, annotations, n, start=0, ending='jpg'):
    for i in range(start, start + n):
        xml(images/f'{i:02d}.{ending}', annotations/f'{i:02d}.xml')


def yolo_part(images, labels, n, row=ROW, start=0):
    labels.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        picture(images/f'{i:02d}.jpg')
        (labels/f'{i:02d}.txt').write_text(row)


def roboflow(root, parts=(('train', 10), ('valid', 4), ('test', 3)), yaml=YAML):
    for name, n in parts: yolo_part(root/name/'images', root/name/'labels', n)
    if yaml: (root/'data.yaml').write_text(yaml)
    return root


def note(root, piece, **kwargs):
    "The only note of a folder that has this piece."
    said, = [n for n in read_folder(root, **kwargs).notes if piece in n]
    return said


@contextlib.contextmanager
def told(*pieces):
    "One warning with these pieces."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        yield
    said, = [str(w.message) for w in caught if w.category is UserWarning]
    for piece in pieces: assert piece in said, said


@contextlib.contextmanager
def untold():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


# ---- names of parts

@pytest.mark.parametrize('path, part', [
    ('train', 'train'), ('TRAIN', 'train'), ('Training', 'train'), ('trainval', 'train'),
    ('valid', 'valid'), ('val2017', 'valid'), ('Validation', 'valid'), ('dev', 'valid'),
    ('test', 'test'), ('testing', 'test'), ('test_images', 'test'), ('images-test', 'test'),
    ('instances_train2017', 'train'), ('train_val', 'train'), ('train_test_split', None),
    ('train_test_split/val', 'valid'), ('test/images/JPEG', 'test'), ('train/test', 'test'),
    ('trains', None), ('contest', None), ('device', None), ('', None)])
def test_words_that_name_a_part(path, part):
    assert split_of(path.split('/')) == part


# ---- Pascal VOC

def test_voc_lists_decide(tmp_path):
    voc = make_voc(tmp_path/'VOC2007', [f'{i:03d}' for i in range(8)])
    first = [f'{i:03d}' for i in range(6)]
    folder = read_folder(voc)
    assert (names(folder.train), names(folder.valid)) == (first, ['006', '007'])
    assert folder.test == [] and 'ImageSets/Main' in folder.layout
    (voc/'ImageSets'/'Main'/'val.txt').unlink()
    folder = read_folder(voc)
    assert (len(folder.train), len(folder.valid)) == (5, 1)
    assert names(folder.train + folder.valid) == first
    assert '2 files that belong to no part' in note(voc, 'no part')


@pytest.mark.parametrize('lists, want', [
    (dict(trainval=range(8), val=range(6, 8), test=range(8, 10)), (6, 2, 2)),
    (dict(trainval=range(8), test=range(8, 10)), (7, 1, 2)),
    (dict(train=range(5), trainval=range(8), val=range(5, 8)), (5, 3, 0)),
    (dict(test=range(8, 10)), (7, 1, 2)), (dict(val=range(6, 10)), (6, 4, 0)),
    (dict(Train=range(5), VAL=range(5, 10), cat_test=range(5)), (5, 5, 0))])
def test_voc_lists_of_all_kinds(tmp_path, lists, want):
    stems = [f'{i:02d}' for i in range(10)]
    lists = {name: stems[numbers.start:numbers.stop] for name, numbers in lists.items()}
    make_voc(tmp_path, stems, lists)
    assert sizes(tmp_path) == want
    if 'test' in lists: assert names(read_folder(tmp_path).test) == ['08', '09']
    # 08 and 09 are in no list
    left = ['2 files that belong to no part were left alone'] if sum(want) < 10 else []
    assert read_folder(tmp_path).notes == left


def test_voc_years_are_joined(tmp_path):
    make_voc(tmp_path/'VOC2007', lists=dict(train=['000001'], val=['000002'], test=['000003']))
    years = ('2012_1', '2012_2', '2012_3')
    make_voc(tmp_path/'VOC2012', years, dict(train=years[:2], val=years[2:]))
    assert sizes(tmp_path) == (3, 2, 1)


def test_voc_without_lists_is_split(tmp_path):
    root = make_voc(tmp_path, [f'{i:02d}' for i in range(10)], {})
    folder = read_folder(root)
    assert (len(folder.train), len(folder.valid)) == (8, 2)
    assert names(folder.train + folder.valid) == [f'{i:02d}' for i in range(10)]
    others = [names(read_folder(root, seed=seed).valid) for seed in (1, 2)]
    assert others[0] != names(folder.valid) or others[1] != names(folder.valid)
    assert names(read_folder(root, seed=1).valid) == others[0]


def test_xml_files_in_folders_of_their_part(tmp_path):
    "The same names in each, which are different images."
    for part, n in dict(train=10, Test=4).items():
        voc_part(tmp_path/'images'/part, tmp_path/'images'/part, n)
    folder = read_folder(tmp_path)
    assert sizes(tmp_path) == (8, 2, 4)
    assert {s.path.parent.name for s in folder.test} == {'Test'}
    assert {s.path.parent.name for s in folder.train + folder.valid} == {'train'}
    voc_part(tmp_path/'images'/'valid', tmp_path/'images'/'valid', 3)
    assert sizes(tmp_path) == (10, 3, 4)


@pytest.mark.parametrize('folder', ['annots', 'annotations', 'Annotations', 'xmls', 'labels'])
@pytest.mark.parametrize('images', ['images', 'JPEGImages', 'Images'])
def test_annotations_beside_images(tmp_path, folder, images):
    voc_part(tmp_path/images, tmp_path/folder, 10)
    assert sizes(tmp_path) == (8, 2, 0)
    assert len(read_voc(tmp_path, None)) == len(read_voc(tmp_path/folder, None)) == 10


@pytest.mark.parametrize('images, annotations', [
    ('{}/images', '{}/annots'), ('images/{}', 'annotations/{}'), ('{}', '{}/xml'),
    ('{}', 'annotations/{}')])
def test_annotations_beside_images_of_each_part(tmp_path, images, annotations):
    for part, n in dict(train=5, valid=3).items():
        voc_part(tmp_path/images.format(part), tmp_path/annotations.format(part), n)
    folder = read_folder(tmp_path)
    assert sizes(tmp_path) == (5, 3, 0)
    assert all('valid' in s.path.parts for s in folder.valid)


def test_upper_case_umlauts_and_spaces(tmp_path):
    stems = ['Bär 1', 'Kühe im Nebel', 'a', 'b', 'c', 'd']
    for s in stems: xml(tmp_path/'JPEGImages'/f'{s}.JPG', tmp_path/'Annotations'/f'{s}.XML')
    assert sizes(tmp_path) == (5, 1, 0)
    # macOS stores ü as u and two dots
    apart = 'Ku\u0308he im Nebel'
    (tmp_path/'JPEGImages'/'Kühe im Nebel.JPG').rename(tmp_path/'JPEGImages'/f'{apart}.JPG')
    lists = tmp_path/'ImageSets'/'Main'
    lists.mkdir(parents=True)
    (lists/'train.txt').write_text('Bär 1\na\nb.JPG\n', encoding='utf-8')
    (lists/'val.txt').write_text('Kühe im Nebel\nc\nd\n', encoding='utf-8')
    folder = read_folder(tmp_path)
    assert names(folder.train) == ['Bär 1', 'a', 'b']
    assert names(folder.valid) == sorted([apart, 'c', 'd'])


def test_other_programs_have_xml_files_too(tmp_path):
    voc_part(tmp_path, tmp_path, 5)
    (tmp_path/'pom.xml').write_text('<?xml version="1.0"?>\n<project><a/></project>')
    (tmp_path/'._00.xml').write_bytes(b'\0\5\x16\7')
    (tmp_path/'__MACOSX').mkdir()
    (tmp_path/'__MACOSX'/'00.xml').write_text('')
    assert sizes(tmp_path) == (4, 1, 0)
    (tmp_path/'03.xml').write_text('')
    with pytest.raises(ValueError, match='03.xml: not an XML file'): read_folder(tmp_path)


def test_faults_of_all_parts_are_listed_at_once(tmp_path):
    for part in ('train', 'valid', 'test'):
        voc_part(tmp_path/part, tmp_path/part, 2)
        (tmp_path/part/'01.xml').write_text(voc_xml('01.jpg', voc_object('dog', (9, 9, 5, 5))))
    with pytest.raises(ValueError) as e: read_folder(tmp_path)
    assert str(e.value).count("'dog'") == 3 and '--lenient' in str(e.value)
    assert lenient(sizes, tmp_path) == (2, 2, 2)


# ---- COCO

@pytest.mark.parametrize('layout', COCO_LAYOUTS)
@pytest.mark.parametrize('place', ['validation of trains', 'val', 'train', 'test'])
def test_coco_layouts(tmp_path, layout, place):
    "The name of the folder itself does not count."
    root = tmp_path/place
    for (file, images), n in zip(layout, (5, 3)): make_coco(root/file, root/images, n)
    folder = read_folder(root)
    assert sizes(root) == (5, 3, 0) and folder.layout.startswith('COCO')
    parents = [s[0].path.parent.name for s in (folder.train, folder.valid)]
    assert parents == [part[1].split('/')[-1] for part in layout]


def test_coco_test_images_are_not_trained_on(tmp_path):
    for part, n in dict(train=10, test=4).items():
        make_coco(tmp_path/part/'_annotations.coco.json', n=n)
    assert sizes(tmp_path) == (8, 2, 4)


@pytest.mark.parametrize('name', ['annotations', 'trainval', 'train', 'instances_default'])
def test_one_coco_file_is_split(tmp_path, name):
    make_coco(tmp_path/f'{name}.json', tmp_path/'images', 10)
    assert sizes(tmp_path) == (8, 2, 0)


def test_captions_and_body_joints_are_not_boxes(tmp_path):
    "Whatever their place in the alphabet."
    for part, n in dict(train=5, val=3).items():
        make_coco(tmp_path/'annotations'/f'zoo_{part}.json', tmp_path/f'zoo_{part}', n)
        for kind in ('captions', 'person_keypoints'):
            file = tmp_path/'annotations'/f'{kind}_{part}2017.json'
            make_coco(file, tmp_path/f'{kind}_{part}2017', n)
    assert sizes(tmp_path) == (5, 3, 0)


def test_coco_files_that_share_their_images(tmp_path):
    for part, n in dict(train=5, val=3).items():
        make_coco(tmp_path/f'{part}.json', tmp_path/'images', n)
    assert sizes(tmp_path) == (2, 3, 0)
    assert '3 images came up twice' in note(tmp_path, 'twice')


def test_other_json_files_are_no_coco_files(tmp_path):
    make_coco(tmp_path/'labels.json', tmp_path/'images', 10)
    others = dict(package='{"name": "x"}', metrics='{"map50": 0.5}', detections='[]', bad='{',
                  words='["images", "annotations", "categories"]')
    for name, text in others.items(): (tmp_path/f'{name}.json').write_text(text)
    assert sizes(tmp_path) == (8, 2, 0)
    # half a COCO file is one, and half a data set is not read in silence
    (tmp_path/'valid.json').write_text((tmp_path/'labels.json').read_text()[:-9])
    with pytest.raises(ValueError, match='valid.json: not a COCO file'): read_folder(tmp_path)


def test_coco_files_without_their_images(tmp_path):
    for part, n in dict(train=10, val=4).items():
        file = tmp_path/'annotations'/f'instances_{part}2017.json'
        make_coco(file, tmp_path/f'{part}2017', n)
    # one missing image is a fault, all of them are a part that was not downloaded
    (tmp_path/'val2017'/'0.jpg').unlink()
    with pytest.raises(ValueError, match='0.jpg: no such image'): read_folder(tmp_path)
    shutil.rmtree(tmp_path/'val2017')
    assert sizes(tmp_path) == (8, 2, 0)
    assert 'instances_val2017.json: its images are not there' in note(tmp_path, 'val2017')
    shutil.rmtree(tmp_path/'train2017')
    with pytest.raises(ValueError, match='0.jpg is in none of'): read_folder(tmp_path)


def test_faulty_objects_are_left_out_on_demand(tmp_path):
    coco = coco_dict(10)
    coco['annotations'][0]['bbox'] = [5, 5, -3, 4]
    make_coco(tmp_path/'all.json', tmp_path/'images', coco=coco)
    with pytest.raises(ValueError, match='all.json'): read_folder(tmp_path)
    folder = lenient(read_folder, tmp_path)
    assert lenient(sizes, tmp_path) == (8, 2, 0)
    assert sum(len(s.labels) for s in folder.train + folder.valid) == 9


# ---- YOLO

@pytest.mark.parametrize('classes', [
    'names: [cat, dog]', 'names:\n  0: cat\n  1: dog', "names: {'0': cat, '1': dog}"])
def test_a_yolo_export_with_paths_of_another_machine(tmp_path, classes):
    yaml = YAML.replace('names: [cat, dog]', classes)
    folder = read_folder(roboflow(tmp_path, yaml=yaml))
    assert sizes(tmp_path) == (10, 4, 3) and 'data.yaml' in folder.layout
    assert folder.train[0].boxes.tolist() == [[8, 12, 24, 36]]
    assert folder.test[0].path == tmp_path/'test'/'images'/'00.jpg'
    assert folder.train[0].labels == ['cat']


@pytest.mark.parametrize('yaml', [
    'path: ../datasets/mine\ntrain: images/train\nval: images/val\ntest:\n',
    'path: /content/mine\ntrain: images/train\nval: [images/val]\n',
    'train: /content/data/images/train\nvalidation: images/val\n',
    'train: C:\\data\\images\\train\nval: images/val/\n', 'nc: 2\n',
    'train: nowhere/pictures\n'])
def test_yolo_images_beside_labels(tmp_path, yaml):
    for part, n in dict(train=6, val=3).items():
        yolo_part(tmp_path/'images'/part, tmp_path/'labels'/part, n)
    (tmp_path/'mine.yaml').write_text(f'{yaml}names: [cat]\n')
    assert sizes(tmp_path) == (6, 3, 0)
    told_by = 'data.yaml' if 'val' in yaml else 'folders'
    assert read_folder(tmp_path).layout == f'YOLO, split by {told_by}'
    if 'nowhere' in yaml: assert 'nowhere/pictures is not there' in note(tmp_path, 'nowhere')


@pytest.mark.parametrize('yaml', [
    'path: deep/images\ntrain: [one, two]\nval: three\n',
    'train: [deep/images/one, deep/images/two]\nval: deep/images/three\n',
    'train:\n- C:\\mine\\deep\\images\\one\n- two\npath: deep/images\nval: [three]\n'])
def test_yolo_folders_whose_names_say_nothing(tmp_path, yaml):
    deep = tmp_path/'deep'
    for part, n in dict(one=4, two=3, three=2).items():
        yolo_part(deep/'images'/part, deep/'labels'/part, n)
    (tmp_path/'data.yaml').write_text(f'{yaml}names: [cat]\n')
    assert sizes(tmp_path) == (7, 2, 0)


def test_yolo_lists_of_images(tmp_path):
    yolo_part(tmp_path/'images', tmp_path/'labels', 10)
    lists = dict(train=range(6), val=range(6, 8), test=range(8, 10))
    for part, numbers in lists.items():
        lines = [f'./images/{i:02d}.jpg' if i % 2 else f'data/images/{i:02d}.jpg'
                 for i in numbers]
        (tmp_path/f'{part}.txt').write_text('\n'.join(lines) + '\n')
    yaml = 'train: train.txt\nval: val.txt\ntest: test.txt\nnames: [cat]\n'
    (tmp_path/'data.yaml').write_text(yaml)
    folder = read_folder(tmp_path)
    assert sizes(tmp_path) == (6, 2, 2) and names(folder.test) == ['08', '09']
    (tmp_path/'val.txt').write_text('images/07.jpg\nimages/absent.jpg\n')
    with pytest.raises(ValueError, match='absent.jpg: no such image'): read_folder(tmp_path)


def test_yolo_by_folders_and_classes_txt(tmp_path):
    roboflow(tmp_path, yaml=None)
    with pytest.raises(ValueError, match='add classes.txt'): read_folder(tmp_path)
    (tmp_path/'classes.txt').write_text('cat\n\n')
    assert sizes(tmp_path) == (10, 4, 3)
    assert read_folder(tmp_path).layout == 'YOLO, split by folders'


def test_yolo_labels_beside_the_images(tmp_path):
    "As labelImg writes them; other text files are no rows."
    yolo_part(tmp_path, tmp_path, 10)
    (tmp_path/'classes.txt').write_text('cat')
    (tmp_path/'notes.txt').write_text('5 cats, taken in the garden')
    (tmp_path/'00.jpg').rename(tmp_path/'00.JPG')
    (tmp_path/'01.txt').rename(tmp_path/'01.TXT')
    (tmp_path/'02.txt').write_text('')
    (tmp_path/'03.txt').unlink()
    folder = read_folder(tmp_path)
    assert sizes(tmp_path) == (8, 2, 0) and folder.notes == []
    blank = [s.path.stem for s in folder.train + folder.valid if not s.labels]
    assert sorted(blank) == ['02', '03']
    (tmp_path/'04.jpg').unlink()
    assert '1 text files have no image, the first 04.txt' in note(tmp_path, 'no image')


def test_data_sets_that_number_their_classes_otherwise(tmp_path):
    for name, first in dict(one='cat', two='dog').items():
        roboflow(tmp_path/name, [('train', 3), ('valid', 2)], f'names: [{first}, cow]\n')
    folder = read_folder(tmp_path)
    assert sizes(tmp_path) == (6, 4, 0)
    for s in folder.train: assert s.labels == ['cat' if 'one' in s.path.parts else 'dog']


def test_rows_of_yolo(tmp_path):
    yolo_part(tmp_path/'images', tmp_path/'labels', 1, '\n1 .25 .5 .5 .5 .375 .75\n0 .5 .5 1 1')
    s, = read_yolo(tmp_path/'images', ['cat', 'dog'])
    assert s.boxes.tolist() == [[16, 24, 32, 36], [0, 0, 64, 48]]
    assert s.labels == ['dog', 'cat']
    same, = read_yolo([tmp_path/'images'/'00.jpg'], {0: 'cat', 1: 'dog'})
    assert same.boxes.tolist() == s.boxes.tolist()


YOLO_FAULTS = {    # a row, pieces of the message
    'class': ('2 .5 .5 .5 .5', ['row 2: there is no class 2', '[0, 1]']),
    'fraction': ('.5 .5 .5 .5 .5', ['there is no class 0.5']),
    'pixels': ('0 20 20 10 10', ['shares of the image', 'divide pixels']),
    'nan': ('0 nan .5 .5 .5', ['shares of the image']),
    'words': ('cat .5 .5 .5 .5', ["'cat .5 .5 .5 .5' is not made of numbers"]),
    'short': ('0 .5 .5 .5', ['3 numbers', 'centre x']),
    'confidence': ('0 .5 .5 .5 .5 .9', ['5 numbers']),
    'outside': ('0 .9 .5 .5 .5', ["object 2 ('cat')", 'leaves the 64x48 image']),
    'no_area': ('0 .5 .5 0 .5', ["object 2 ('cat')", 'no area'])}


@pytest.mark.parametrize('fault', YOLO_FAULTS)
def test_faults_of_yolo(tmp_path, fault):
    row, pieces = YOLO_FAULTS[fault]
    yolo_part(tmp_path/'images', tmp_path/'labels', 2)
    (tmp_path/'labels'/'01.txt').write_text(ROW + row)
    with pytest.raises(ValueError) as e: read_yolo(tmp_path/'images', ['cat', 'dog'])
    for piece in ['01.txt', '1 faults', 'drop_bad', *pieces]: assert piece in str(e.value)
    kept = lenient(read_yolo, tmp_path/'images', ['cat', 'dog'])
    assert [s.labels for s in kept] == [['cat'], ['cat']]


def test_names_that_cannot_be_read(tmp_path):
    roboflow(tmp_path, yaml='names: [cat\n')
    with pytest.raises(ValueError, match='data.yaml: not a YAML file'): read_folder(tmp_path)
    (tmp_path/'data.yaml').write_text('names: 3\n')
    with pytest.raises(ValueError, match='data.yaml: no class names'): read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match='no such folder'): read_yolo(tmp_path/'absent')


def test_a_yaml_that_validates_on_the_training_images(tmp_path):
    yaml = 'train: train/images\nval: train/images\nnames: [cat]\n'
    roboflow(tmp_path, [('train', 10)], yaml)
    assert sizes(tmp_path) == (8, 2, 0)


def test_a_part_that_was_not_annotated(tmp_path):
    roboflow(tmp_path)
    shutil.rmtree(tmp_path/'test'/'labels')
    assert sizes(tmp_path) == (10, 4, 0)
    assert 'no image of the test part has a text file' in note(tmp_path, 'text file')


# ---- what is strange

@pytest.mark.parametrize('voc, coco, yolo, read', [
    (5, 0, 6, 'YOLO'), (6, 5, 6, 'Pascal VOC'), (0, 6, 6, 'COCO'), (5, 6, 5, 'COCO')])
def test_the_format_that_annotates_most_images(tmp_path, voc, coco, yolo, read):
    yolo_part(tmp_path, tmp_path, yolo)
    (tmp_path/'classes.txt').write_text('cat\n')
    voc_part(tmp_path, tmp_path, voc)
    if coco: make_coco(tmp_path/'all.json', n=coco)
    folder = read_folder(tmp_path)
    assert folder.layout.startswith(read)
    others = {'Pascal VOC': voc, 'COCO': coco, 'YOLO': yolo}
    for name, n in others.items():
        said = f'{name} annotations of {n} images were left alone'
        assert (said in folder.notes) == (n > 0 and name != read)


@pytest.mark.parametrize('empty', ['valid', 'val/images', 'Test'])
def test_a_part_without_pictures(tmp_path, empty):
    voc_part(tmp_path/'train', tmp_path/'train', 10)
    (tmp_path/empty).mkdir(parents=True)
    assert sizes(tmp_path) == (8, 2, 0)
    assert note(tmp_path, 'no annotated images').startswith(empty.split('/')[0])
    if 'images' not in empty: picture(tmp_path/empty/'1.jpg')
    assert sizes(tmp_path) == (8, 2, 0)


def test_a_list_without_pictures(tmp_path):
    make_voc(tmp_path, [f'{i:02d}' for i in range(10)],
             dict(train=[f'{i:02d}' for i in range(10)], val=[]))
    assert sizes(tmp_path) == (8, 2, 0)
    assert 'the list for valid holds no annotated images' in note(tmp_path, 'valid')


def test_what_belongs_to_no_part(tmp_path):
    "It is for training, unless a folder is."
    voc_part(tmp_path, tmp_path, 10)
    voc_part(tmp_path/'test', tmp_path/'test', 4)
    assert sizes(tmp_path) == (8, 2, 4)
    voc_part(tmp_path/'train', tmp_path/'train', 5)
    assert sizes(tmp_path) == (4, 1, 4)
    assert '10 files that belong to no part' in note(tmp_path, 'no part')


def test_test_images_alone_are_not_trained_on(tmp_path):
    voc_part(tmp_path/'test', tmp_path/'test', 4)
    assert sizes(tmp_path) == (0, 0, 4)


def test_a_class_that_training_never_sees(tmp_path):
    for part in ('train', 'valid', 'test'): voc_part(tmp_path/part, tmp_path/part, 2)
    assert 'no training image shows' not in repr(read_folder(tmp_path))
    for part, label in dict(valid='dog', test='cow').items():
        (tmp_path/part/'00.xml').write_text(voc_xml('00.jpg', voc_object(label)))
    lines = repr(read_folder(tmp_path)).split('\n')
    assert lines[-1] == 'no training image shows: cow, dog'
    assert '2 classes: cat, dog' in ' '.join(lines)


def test_the_line_says_what_was_understood(tmp_path):
    roboflow(tmp_path)
    (tmp_path/'train'/'labels'/'00.txt').write_text('')
    folder = read_folder(tmp_path)
    line = ('YOLO, split by data.yaml: 10 images to train (9 objects), 4 to validate (4), '
            '3 to test (3), 1 classes: cat')
    assert ' '.join(repr(folder).split()) == line
    assert max(map(len, repr(folder).split('\n'))) <= 88
    shutil.rmtree(tmp_path/'valid')
    assert 'validation held out by seed 3' in read_folder(tmp_path, seed=3).layout


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    for part, n in dict(one=10, two=4).items():
        voc_part(tmp_path/'store'/part, tmp_path/'store'/part, n)
    root = tmp_path/'set'
    root.mkdir()
    for link, to in dict(train='one', test='two').items():
        (root/link).symlink_to(tmp_path/'store'/to)
    assert sizes(root) == (8, 2, 4)
    (tmp_path/'store'/'one'/'back').symlink_to(tmp_path/'store')
    (tmp_path/'store'/'two'/'across').symlink_to(tmp_path/'store'/'one')
    (root/'loop').symlink_to(root)
    assert len(walk_folders(root)) < 50
    folder = read_folder(root)
    everything = folder.train + folder.valid + folder.test
    assert len({os.path.realpath(s.path) for s in everything}) == len(everything) == 14


def test_a_link_to_a_test_image_is_a_test_image(tmp_path):
    for part in ('train', 'test'): voc_part(tmp_path/part, tmp_path/part, 6)
    (tmp_path/'train'/'00.jpg').unlink()
    (tmp_path/'train'/'00.jpg').symlink_to(tmp_path/'test'/'00.jpg')
    assert sizes(tmp_path) == (4, 1, 6)
    assert '1 images came up twice' in note(tmp_path, 'twice')
    voc_part(tmp_path/'valid', tmp_path/'valid', 3)
    for i in range(6):
        (tmp_path/'train'/f'0{i}.jpg').unlink()
        (tmp_path/'train'/f'0{i}.jpg').symlink_to(tmp_path/'test'/f'0{i}.jpg')
    assert sizes(tmp_path) == (0, 3, 6)


@pytest.mark.parametrize('content, piece', [
    ('empty', 'found nothing'), ('pictures', "found ['1.jpg']"), ('json', "['notes.json']"),
    ('texts', 'neither a Pascal VOC tree'), ('one', 'valid_pct')])
def test_folders_without_annotations_are_refused(tmp_path, content, piece):
    if content in ('pictures', 'texts'): picture(tmp_path/'1.jpg')
    if content == 'texts': (tmp_path/'1.txt').write_text('a photograph of a cat on a mat')
    if content == 'json': (tmp_path/'notes.json').write_text('{}')
    if content == 'one': make_coco(tmp_path/'train.json', n=1)
    with pytest.raises(ValueError) as e: read_folder(tmp_path)
    assert piece in str(e.value)
    for word in ('.xml', '.json', '.txt'):
        assert content == 'one' or word in str(e.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
        read_folder(tmp_path/'nowhere')


# ---- annotations that contradict their images

def lying(path, orientation, raw=(60, 40), box=(5, 10, 25, 20)):
    "A grey picture with a red box, at these pixels as it is stored."
    im = Image.new('RGB', raw, (120, 120, 120))
    im.paste((250, 0, 0), box)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    im.save(path, exif=exif)


def red_box(path):
    "Where the red pixels are in the upright image."
    red = load_image(path).getchannel('G').point(lambda v: 255 * (v < 60))
    return list(red.getbbox())


@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
@pytest.mark.parametrize('kind', ['voc', 'coco'])
def test_boxes_drawn_on_the_picture_as_stored(tmp_path, orientation, kind):
    lying(tmp_path/'x.png', orientation)
    if kind == 'voc':
        (tmp_path/'x.xml').write_text(sized((60, 40), voc_object(box=(6, 11, 25, 20))))
        with told('1 of them, the first', 'x.xml', 'EXIF'): s, = read_voc(tmp_path, None)
    else:
        coco = coco_dict(1, (60, 40), (5, 10, 20, 10))
        coco['images'][0]['file_name'] = 'x.png'
        (tmp_path/'x.json').write_text(json.dumps(coco))
        with told('1 of them, the first', 'x.png', 'EXIF'): s, = read_coco(tmp_path/'x.json')
    assert s.boxes.tolist() == [red_box(tmp_path/'x.png')]


def test_boxes_that_fit_only_the_picture_as_stored(tmp_path):
    lying(tmp_path/'x.png', 6, box=(40, 10, 58, 20))
    (tmp_path/'x.xml').write_text(voc_xml('x.png', voc_object(box=(41, 11, 58, 20))))
    with told('EXIF'): s, = read_voc(tmp_path, None)
    assert s.boxes.tolist() == [red_box(tmp_path/'x.png')]


@pytest.mark.parametrize('box', [(6, 11, 25, 20), (5, 30, 20, 55)])
def test_boxes_drawn_on_the_upright_picture_stay(tmp_path, box):
    lying(tmp_path/'x.png', 6)
    (tmp_path/'x.xml').write_text(sized((40, 60), voc_object(box=box)))
    with untold(): s, = read_voc(tmp_path, None)
    assert s.boxes.tolist() == [[box[0] - 1, box[1] - 1, box[2], box[3]]]


WRONG_SIZES = {    # stated size, box, box that is read (None: a fault), piece of the warning
    'larger': ((128, 96), (41, 41, 100, 80), [20, 20, 50, 40], 'scaled'),
    'nearly_the_shape': ((1280, 963), (401, 401, 1000, 800), [20, 20, 50, 40], 'scaled'),
    'fits_anyway': ((128, 96), (5, 5, 30, 30), [4, 4, 30, 30], 'kept'),
    'other_shape': ((90, 90), (5, 5, 80, 30), None, 'kept'),
    'other_shape_fits': ((90, 90), (5, 5, 30, 30), [4, 4, 30, 30], 'kept'),
    'in_neither': ((128, 96), (5, 5, 200, 30), None, 'kept'),
    'right': ((64, 48), (5, 5, 30, 30), [4, 4, 30, 30], ''),
    'none_stated': ((0, 0), (5, 5, 30, 30), [4, 4, 30, 30], ''),
    'no_number': (('wide', 'high'), (5, 5, 30, 30), [4, 4, 30, 30], '')}


@pytest.mark.parametrize('case', WRONG_SIZES)
def test_sizes_that_are_not_those_of_the_image(tmp_path, case):
    size, box, want, piece = WRONG_SIZES[case]
    picture(tmp_path/'x.png')
    (tmp_path/'x.xml').write_text(sized(size, voc_object(box=box)))
    with told(piece) if piece else untold():
        if want:
            s, = read_voc(tmp_path, None)
            assert [round(float(v)) for v in s.boxes[0]] == want
        else:
            with pytest.raises(ValueError, match='leaves the 64x48 image'):
                read_voc(tmp_path, None)


def test_all_contradictions_are_told_in_one_warning(tmp_path):
    for i in range(3):
        picture(tmp_path/f'{i}.png')
        xml_text = sized((128, 96), voc_object(box=(41, 41, 100, 80)), name=f'{i}.png')
        (tmp_path/f'{i}.xml').write_text(xml_text)
    lying(tmp_path/'x.png', 8)
    (tmp_path/'x.xml').write_text(sized((60, 40), voc_object(box=(6, 11, 25, 20))))
    with told('3 of them, the first', '0.xml', 'scaled', '1 of them', 'x.xml', 'EXIF'):
        assert len(read_voc(tmp_path, None)) == 4


def test_a_size_without_boxes_does_no_harm(tmp_path):
    picture(tmp_path/'x.png')
    (tmp_path/'x.xml').write_text(sized((500, 500)))
    with untold(): assert read_voc(tmp_path, None)[0].labels == []


def test_objects_of_one_image_in_two_files_are_joined(tmp_path):
    for name, category in dict(cats=1, dogs=2).items():
        coco = coco_dict(10)
        for a in coco['annotations']: a.update(category_id=category, bbox=[category, 5, 20, 25])
        make_coco(tmp_path/f'train_{name}.json', coco=coco)
    folder = read_folder(tmp_path)
    assert all(sorted(s.labels) == ['cat', 'dog'] for s in folder.samples)
    assert len(folder.samples) == 10 and '10 images came up twice' in repr(folder)


def test_one_damaged_file_of_several_names_itself(tmp_path):
    make_coco(tmp_path/'train_a.json', n=10)
    (tmp_path/'train_b.json').write_text('{"images": [], "annotations": [], "categories": [')
    with pytest.raises(ValueError, match='train_b.json: not a COCO file'): read_folder(tmp_path)
    assert len(lenient(read_folder, tmp_path).samples) == 10
