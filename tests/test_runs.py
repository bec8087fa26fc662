import contextlib
import csv
import json
import shutil
import threading
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import AvgMetric
from PIL import Image

from makers import (
    coco_dict, make_coco, make_voc, noise, picture, speak_up, truncate, voc_object, voc_xml
)
from ssd_tutorial import runs
from ssd_tutorial.anchors import SSDCoder, TanhCoder, make_anchors
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import evaluate
from ssd_tutorial.folders import read_folder
from ssd_tutorial.model import fast_dtype, grid_sizes, ssd_model
from ssd_tutorial.predict import Detector
from ssd_tutorial.recipes import preset
from ssd_tutorial.runs import evaluate_folder, predict_files, train_detector

FILES = ['detector.pt', 'history.csv', 'metrics.json', 'predictions.png']
SMALL = dict(arch='resnet8', size=64, epochs=1, bs=4, workers=0)
REVERSED = voc_object('dog', (30, 5, 20, 9))


def small(model='ssd', **given): return preset(model, 'scratch', **{**SMALL, **given})


@pytest.fixture
def voc(tmp_path): return make_voc(tmp_path/'VOC2007', [f'{i:03d}' for i in range(8)])


@pytest.fixture
def coco(tmp_path):
    for split, n in dict(train=5, valid=3).items():
        make_coco(tmp_path/'set'/f'{split}.json', tmp_path/'set'/split, n)
    return tmp_path/'set'


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    "The file of an untrained detector that finds cats and dogs everywhere."
    torch.manual_seed(3)
    model = speak_up(ssd_model('resnet8', 3, pretrained=False, maps=2))
    anchors = make_anchors(grid_sizes(model, 64), coder=SSDCoder())
    file = tmp_path_factory.mktemp('detector')/'d.pt'
    return Detector(model, anchors, Vocab(['cat', 'dog']), 64).save(file)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.is_file() and p.read_bytes()
            for p in folder.rglob('*')}


def names(folder): return sorted(p.name for p in folder.iterdir())


def facts_of(run): return json.loads((run/'metrics.json').read_text())


@contextlib.contextmanager
def refused(*pieces):
    "What the commands turn into one sentence."
    with pytest.raises((ValueError, OSError)) as e: yield
    for piece in pieces: assert piece in str(e.value)


# ---- training

def test_a_run_is_a_folder_of_four_files(coco, tmp_path, capsys):
    recipe = small(epochs=2)
    facts = train_detector(coco, tmp_path/'new'/'run', recipe)
    run = tmp_path/'new'/'run'
    assert names(run) == FILES and facts == facts_of(run)
    said = capsys.readouterr().out
    assert repr(read_folder(coco)) in said
    assert '5 images to train (5 objects), 3 to validate (3), 2 classes: cat, dog' in \
        ' '.join(said.split())
    assert repr(recipe) in said
    rows = list(csv.DictReader((run/'history.csv').open()))
    losses = [float(r['valid_loss']) for r in rows]
    assert losses == [facts['first_valid_loss'], facts['valid_loss']]
    assert float(rows[-1]['train_loss']) == facts['train_loss']
    for name in ('class_loss', 'box_loss'):
        assert float(rows[-1][name]) == facts[f'valid_{name}']
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    assert facts['dtype'] == str(fast_dtype(device)).removeprefix('torch.')


def test_the_articles_model_is_still_there(voc, tmp_path):
    facts = train_detector(voc, tmp_path/'run', small('article', augment='article'))
    d = Detector.load(tmp_path/'run'/'detector.pt')
    assert names(tmp_path/'run') == FILES and facts == facts_of(tmp_path/'run')
    assert (facts['model'], facts['anchors'], facts['augment']) == ('article', 4, 'article')
    assert (len(d.anchors), d.size) == (4, 64)
    assert 0 <= facts['map'] <= facts['map50'] <= 1
    assert repr(d.anchors.coder) == repr(TanhCoder()) == 'TanhCoder()'


@pytest.mark.parametrize('augment', ['flips', 'none'])
def test_a_voc_tree_trains(voc, tmp_path, augment):
    train_detector(voc, tmp_path/'run', small(augment=augment))
    facts = facts_of(tmp_path/'run')
    assert names(tmp_path/'run') == FILES
    assert (facts['n_train'], facts['n_valid']) == (6, 2)
    assert (facts['classes'], facts['augment']) == (['cat'], augment)


@pytest.mark.parametrize('model', ['ssd', 'article'])
def test_frozen_epochs_come_first(voc, tmp_path, model):
    train_detector(voc, tmp_path/'run', small(model, frozen=1))
    assert len(list(csv.DictReader((tmp_path/'run'/'history.csv').open()))) == 2


def test_the_seed_repeats_the_losses(coco, tmp_path):
    losses = []
    for i, seed in enumerate([1, 1, 2]):
        train_detector(coco, tmp_path/str(i), small(seed=seed))
        losses.append(facts_of(tmp_path/str(i))['valid_loss'])
    assert losses[2] != losses[0]
    # a GPU may add in another order
    assert losses[0] == losses[1]


def test_images_without_any_object_can_be_evaluated(tmp_path):
    "A class that no image of the validation set has has no AP; with no class there is no mAP."
    root = tmp_path/'set'
    make_coco(root/'train.json', root/'train', 5)
    make_coco(root/'valid.json', root/'valid', coco=dict(coco_dict(3), annotations=[]))
    train_detector(root, tmp_path/'run', small())
    assert names(tmp_path/'run') == FILES

    def constant(word): pytest.fail(f'{word} is not JSON')

    text = (tmp_path/'run'/'metrics.json').read_text()
    facts = json.loads(text, parse_constant=constant)
    assert facts['map50'] is None and facts['map'] is None
    assert np.isfinite(facts['valid_loss'])


def test_metrics_say_what_they_were_made_of(coco, tmp_path):
    train_detector(coco, tmp_path/'a', small())
    train_detector(coco, tmp_path/'b', small(seed=1))
    file = coco/'train.json'
    file.write_text(file.read_text().replace('"cat"', '"cow"'))
    valid = coco/'valid.json'
    valid.write_text(valid.read_text().replace('"cat"', '"cow"'))
    train_detector(coco, tmp_path/'c', small())
    a, b, c = (facts_of(tmp_path/run) for run in 'abc')
    assert a['versions']['torch'] == version('torch') and 'python' in a['versions']
    assert a['digest'] == b['digest'] != c['digest']


class Watch(Callback):
    "Note at the end of each epoch whether a detector that loads is there."
    order = 99
    def __init__(self, run):
        self.run = run
        self.seen = []

    def after_epoch(self):
        file = self.run/'detector.pt'
        self.seen.append(file.is_file() and Detector.load(file).vocab.names)


@pytest.mark.parametrize('reached, saved', [
    ([.1, .3, .2], [1, 1, 0]), ([.5, .5, .6], [1, 1, 1]), ([0, 0, .1], [0, 0, 1]),
    ([float('nan'), .2, float('nan')], [0, 1, 0])])
def test_the_best_detector_so_far_is_kept(tmp_path, monkeypatch, reached, saved):
    written = []
    monkeypatch.setattr(Detector, 'save', lambda self, path: written.append(path))
    model = ssd_model('resnet8', 2, pretrained=False)
    best = runs._BestSoFar(tmp_path/'d.pt', Vocab(['cat']), 64)
    rows = []
    anchors = make_anchors(grid_sizes(model, 64))
    best.learn = SimpleNamespace(history=SimpleNamespace(rows=rows), model=model,
                                 loss_func=SimpleNamespace(anchors=anchors))
    best.before_fit()
    for value, wanted in zip(reached, saved):
        written.clear()
        # a call of `validate` trains nothing
        best.after_epoch()
        rows.append(dict(map50=value))
        best.after_epoch()
        assert len(written) == wanted


def test_a_detector_is_there_while_training_goes_on(coco, tmp_path, monkeypatch):
    watch = Watch(tmp_path/'run')
    learner = runs.recipe_learner
    monkeypatch.setattr(runs, 'recipe_learner', lambda *args, cbs, **kwargs: learner(
        *args, cbs=[*cbs, watch], **kwargs))
    monkeypatch.setattr(runs, 'MeanAP', lambda anchors: AvgMetric(map50))
    train_detector(coco, tmp_path/'run', small(epochs=2))
    assert watch.seen == [['bg', 'cat', 'dog']] * 2


def map50(preds, boxes, labels): return torch.tensor(.5)


def test_two_trainings_do_not_share_a_folder(coco, tmp_path, monkeypatch):
    begun = threading.Event()
    ends = threading.Event()

    def slow(*args):
        begun.set()
        ends.wait(60)

    monkeypatch.setattr(runs, '_train', slow)
    first = threading.Thread(target=train_detector, args=[coco, tmp_path/'run', small()])
    first.start()
    assert begun.wait(60)
    with refused('another training is writing', '--out'):
        train_detector(coco, tmp_path/'run', small(), overwrite=True)
    ends.set()
    first.join()
    train_detector(coco, tmp_path/'run', small())
    assert names(tmp_path/'run') == []


# ---- what is refused, and that it is refused before training

@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs): raise AssertionError('training has begun')
    monkeypatch.setattr('ssd_tutorial.runs.recipe_learner', fail)


def corrupt(root):
    truncate(noise(root/'JPEGImages'/'002.jpg', (64, 48)))
    return root


def test_a_corrupt_image(voc, tmp_path, no_training):
    with refused('002.jpg', 'cut short', '--lenient'):
        train_detector(corrupt(voc), tmp_path/'run', small())


def test_a_corrupt_image_is_left_out_on_demand(voc, tmp_path):
    train_detector(corrupt(voc), tmp_path/'run', small(), drop_bad=True)
    assert facts_of(tmp_path/'run')['n_train'] == 5


def test_faulty_objects(voc, tmp_path):
    (voc/'Annotations'/'002.xml').write_text(voc_xml('002.jpg', REVERSED))
    with refused('002.xml', "'dog'", 'reversed', '--lenient'):
        train_detector(voc, tmp_path/'run', small())
    train_detector(voc, tmp_path/'run', small(), drop_bad=True)
    assert facts_of(tmp_path/'run')['classes'] == ['cat']


def test_boxes_in_another_convention_are_never_left_out(tmp_path, no_training):
    stems = [f'{i:02}' for i in range(12)]
    root = make_voc(tmp_path/'set', stems, {}, [voc_object(box=(50, 30, 20, 25))], (96, 64))
    for lenient in (False, True):
        with refused('x, y, width, height instead of two corners'):
            train_detector(root, tmp_path/'run', small(), drop_bad=lenient)


@pytest.mark.parametrize('content, piece', [
    ('nowhere', 'no such folder'), ('empty', 'neither a Pascal VOC tree'),
    ('images', 'neither a Pascal VOC tree'), ('json', "found ['notes.json']"),
    ('test', 'no images to train on'), ('no_objects', 'class name'), ('one', 'valid_pct')])
def test_folders_that_cannot_be_trained_on(tmp_path, no_training, content, piece):
    root = tmp_path/'set'
    if content != 'nowhere': root.mkdir()
    if content == 'images': picture(root/'1.jpg')
    if content == 'json': (root/'notes.json').write_text('{}')
    if content == 'no_objects':
        make_coco(root/'train.json', coco=dict(coco_dict(10), annotations=[]))
    if content == 'one': make_coco(root/'train.json', n=1)
    if content == 'test': make_coco(root/'test'/'_annotations.coco.json')
    with refused(piece): train_detector(root, tmp_path/'run', small())


def test_out_is_a_file(coco, tmp_path, no_training):
    (tmp_path/'run').write_text('mine')
    with refused('run'): train_detector(coco, tmp_path/'run', small())
    assert (tmp_path/'run').read_text() == 'mine'


def test_a_loss_that_is_not_finite_writes_no_detector(coco, tmp_path):
    with refused('lr 1e+30', 'class_loss', 'images [0, 1, 2, 3]', 'result of ', 'try a lower'):
        train_detector(coco, tmp_path/'run', small(lr=1e30, epochs=3))
    found = set(names(tmp_path/'run'))
    assert {'broken.pt', 'broken.png'} <= found <= {'broken.pt', 'broken.png', 'history.csv'}
    images, boxes, labels = torch.load(tmp_path/'run'/'broken.pt')
    assert len(images) == len(boxes) == len(labels) == 4 and images.isfinite().all()
    # gone with the next run
    train_detector(coco, tmp_path/'run', small(), overwrite=True)
    assert names(tmp_path/'run') == FILES


# ---- prediction

@pytest.mark.parametrize('fourth', ['y.jpg', 'detections.jpg', 'x-1.jpg', 'X-1.jpg'])
def test_images_of_one_name_do_not_overwrite_each_other(detector, tmp_path, fourth):
    given = ['a/x.png', 'b/x.png', 'b/x.jpg', f'b/{fourth}']
    files = [noise(tmp_path/n, seed=i) for i, n in enumerate(given)]
    written = [f['annotated'] for f in predict_files(files, detector, tmp_path/'out')]
    assert len({n.lower() for n in written}) == 4
    if fourth.lower() != 'x-1.jpg': assert written[3] == f'{fourth[:-4]}.png'
    assert names(tmp_path/'out') == sorted([*written, 'detections.json'])


def test_nothing_found_is_a_result(detector, tmp_path):
    facts = predict_files([noise(tmp_path/'x.png')], detector, tmp_path/'out', score_thresh=1.)
    assert facts[0]['objects'] == []
    assert names(tmp_path/'out') == ['detections.json', 'x.png']


def unreadable(folder, kind):
    "Paths of which one cannot be read."
    good = noise(folder/'good.png')
    bad = folder/f'{kind}.jpg'
    if kind == 'cut': truncate(noise(bad))
    if kind == 'text': bad.write_text('no image')
    if kind != 'empty': return [good, bad]
    (folder/'empty').mkdir()
    return [folder/'empty']


@pytest.mark.parametrize('kind, pieces', [
    ('cut', ['cut.jpg', '1 of 2', 'cut short']), ('text', ['text.jpg', 'not an image']),
    ('none', ['none.jpg', 'no such image']), ('empty', ['no images in', 'empty'])])
def test_an_unreadable_image_is_named_before_anything_is_written(detector, tmp_path, kind,
                                                                 pieces):
    given = unreadable(tmp_path, kind)
    before = content(tmp_path)
    with refused(*pieces): predict_files(given, detector, tmp_path/'out')
    assert content(tmp_path) == before


def test_a_damaged_image_in_a_folder_keeps_none_of_the_others_out(detector, tmp_path, capsys):
    for i in range(2): noise(tmp_path/'in'/f'{i}.png')
    truncate(noise(tmp_path/'in'/'cut.jpg'))
    facts = predict_files([tmp_path/'in'], detector, tmp_path/'out')
    assert [Path(f['image']).name for f in facts] == ['0.png', '1.png']
    said = capsys.readouterr().out
    assert '1 images cannot be read and are left out' in said and 'cut.jpg' in said
    for name in ('0.png', '1.png'): truncate(tmp_path/'in'/name)
    with refused('3 of 3'): predict_files([tmp_path/'in'], detector, tmp_path/'none')


def test_names_as_long_as_systems_allow(detector, tmp_path):
    files = [noise(tmp_path/f'{letter * 250}.png') for letter in 'ab']
    files.append(noise(tmp_path/('ä' * 120 + '.png')))
    written = [f['annotated'] for f in predict_files(files, detector, tmp_path/'out')]
    assert sorted([*written, 'detections.json']) == names(tmp_path/'out')


@pytest.mark.parametrize('name, piece', [
    ('none.pt', 'none.pt: no such file'), ('x.png', 'x.png: not a detector')])
def test_no_detector_no_result(tmp_path, coco, name, piece):
    image = noise(tmp_path/'x.png')
    before = content(tmp_path)
    with refused(piece): predict_files([image], tmp_path/name, tmp_path/'out')
    with refused(piece): evaluate_folder(coco, tmp_path/name)
    assert content(tmp_path) == before


def test_the_place_for_the_images_is_a_file(detector, tmp_path):
    (tmp_path/'out').write_text('mine')
    with refused('out'): predict_files([noise(tmp_path/'x.png')], detector, tmp_path/'out')
    assert (tmp_path/'out').read_text() == 'mine'


def test_the_annotated_image_has_the_shape_of_the_image(detector, tmp_path):
    files = [noise(tmp_path/'wide.png', (90, 30)), noise(tmp_path/'high.png', (30, 90))]
    for facts in predict_files(files, detector, tmp_path/'out'):
        with Image.open(tmp_path/'out'/facts['annotated']) as im: shape = im.width / im.height
        assert abs(shape / (facts['width'] / facts['height']) - 1) < .15


# ---- evaluation

def test_each_image_is_looked_at_once(detector, coco, monkeypatch):
    looked = []
    raw = Detector.raw

    def watched(self, images):
        looked.extend(images)
        return raw(self, images)

    monkeypatch.setattr(Detector, 'raw', watched)
    report = evaluate_folder(coco, detector)
    assert sorted(looked) == sorted(s.path for s in report.samples) and len(looked) == 3
    want = evaluate(Detector.load(detector), report.samples)
    assert (report.map50, report.map) == (want.map50, want.map) and repr(report) == repr(want)


def test_which_images_are_evaluated(detector, voc, coco):
    for name, stems in dict(train='000 002 004 005', test='001 007 003', odd='000 007').items():
        lines = stems.replace(' ', '\n')
        (voc/'ImageSets'/'Main'/f'{name}.txt').write_text(lines)
    (voc/'ImageSets'/'Main'/'val.txt').write_text('006\n')
    def stems(*args): return [s.path.stem for s in evaluate_folder(*args).samples]
    assert stems(coco, detector) == ['0', '1', '2']
    assert stems(voc, detector) == ['006']
    assert stems(voc, detector, 'test') == ['001', '007', '003']
    assert stems(voc, detector, 'train') == ['000', '002', '004', '005']
    assert stems(voc, detector, 'odd') == ['000', '007']
    with refused("no images in 'test'", '5 images to train'): stems(coco, detector, 'test')
    for root in (coco, voc): assert len(stems(root, detector, 'all')) == 8
    with refused('no list ImageSets/Main/holidays.txt', "'odd', 'test', 'train', 'val'"):
        evaluate_folder(voc, detector, split='holidays')


def test_without_lists_the_seed_holds_out_what_training_held_out(detector, tmp_path):
    root = make_voc(tmp_path, [f'{i:02d}' for i in range(10)], {})
    for seed in (6789, 1):
        report = evaluate_folder(root, detector, seed=seed)
        held_out = read_folder(root, seed=seed).valid
        assert [s.path for s in report.samples] == [s.path for s in held_out]


def test_classes_that_the_detector_does_not_know(detector, coco, tmp_path):
    d = Detector.load(detector)
    d.vocab = Vocab(['cow', 'dog'])
    with refused('does not know', "['cat']", "['cow', 'dog']"):
        evaluate_folder(coco, d.save(tmp_path/'other.pt'))


def test_faulty_images_and_objects_in_evaluation(detector, voc):
    corrupt(voc)
    shutil.copy(voc/'JPEGImages'/'002.jpg', voc/'JPEGImages'/'007.jpg')
    (voc/'Annotations'/'006.xml').write_text(voc_xml('006.jpg', voc_object(), REVERSED))
    with refused('006.xml', 'reversed', '--lenient'): evaluate_folder(voc, detector)
    report = evaluate_folder(voc, detector, drop_bad=True)
    assert [s.path.stem for s in report.samples] == ['006']
    assert report.samples[0].labels == ['cat']


@pytest.mark.parametrize('content, piece', [
    ('nowhere', 'no such folder'), ('empty', 'neither a Pascal VOC tree')])
def test_folders_that_cannot_be_evaluated(detector, tmp_path, content, piece):
    if content == 'empty': (tmp_path/content).mkdir()
    with refused(piece): evaluate_folder(tmp_path/content, detector)
