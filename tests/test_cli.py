import contextlib
import csv
import json
import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from makers import coco_dict, make_coco, make_voc, noise, picture, speak_up, truncate, voc_object, voc_xml
from ssd_tutorial.anchors import SSDCoder, make_anchors
from ssd_tutorial.recipes import read_folder
from ssd_tutorial.cli import (
    evaluate_folder, predict_files, ssd_evaluate, ssd_predict, ssd_train
)
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import evaluate
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.predict import Detector

FILES = ['detector.pt', 'history.csv', 'metrics.json', 'predictions.png']
SMALL = dict(scratch=True, arch='resnet8', size=64, epochs=1, bs=4, workers=0)


@pytest.fixture
def voc(tmp_path): return make_voc(tmp_path/'VOC2007', [f'{i:03d}' for i in range(8)])


@pytest.fixture
def coco(tmp_path):
    for split, n in dict(train=5, valid=3).items(): make_coco(tmp_path/'set'/f'{split}.json', tmp_path/'set'/split, n)
    return tmp_path/'set'


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    "The file of an untrained detector that finds cats and dogs everywhere."
    torch.manual_seed(3)
    model = speak_up(ssd_model('resnet8', 3, pretrained=False, maps=2))
    return Detector(model, make_anchors(grid_sizes(model, 64)), Vocab(['cat', 'dog']), 64, SSDCoder()).save(tmp_path_factory.mktemp('d')/'d.pt')


def content(folder): return {p.relative_to(folder).as_posix(): p.is_file() and p.read_bytes() for p in folder.rglob('*')}


@contextlib.contextmanager
def refused(*pieces, by='ssd_train'):
    "A sentence for the user: SystemExit with a text goes to stderr, without a traceback, and gives exit code 1."
    with pytest.raises(SystemExit) as e: yield
    said = e.value.code
    assert isinstance(said, str) and said.startswith(f'{by}: ')
    for piece in pieces: assert piece in said


@pytest.fixture
def command(tmp_path, monkeypatch):
    "Run what an installer writes as a command, in this process, as importing everything takes seconds."
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('COLUMNS', '200')
    def run(name, *args):
        script = tmp_path.with_name(f'{tmp_path.name}_{name}.py')
        script.write_text(f'import sys\nfrom ssd_tutorial.cli import {name}\nsys.exit({name}())\n')
        monkeypatch.setattr(sys, 'argv', [str(script), *map(str, args)])
        with pytest.raises(SystemExit) as e: runpy.run_path(str(script), run_name='__main__')
        return e.value.code
    run.script = tmp_path.with_name(f'{tmp_path.name}_ssd_train.py')
    return run


OPTIONS = dict(ssd_train='data out model scratch arch size frozen epochs lr bs augment workers seed lenient',
               ssd_predict='detector out score overlap', ssd_evaluate='detector split seed lenient')


@pytest.mark.parametrize('name', OPTIONS)
def test_help_lists_every_option(command, tmp_path, capsys, name):
    assert command(name, '--help') == 0 and list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    for o in OPTIONS[name].split(): assert f'--{o}' in said
    assert {'ssd_train': 'article', 'ssd_predict': 'images', 'ssd_evaluate': 'data'}[name] in said


def test_a_new_process_refuses_in_one_sentence(command, tmp_path):
    command('ssd_train', '--help')                                  # writes the script
    done = subprocess.run([sys.executable, command.script, '--data', 'nowhere', '--out', 'run'], cwd=tmp_path, capture_output=True, text=True,
                          timeout=120, env=dict(os.environ, PYTHONWARNINGS='ignore'))
    assert done.returncode == 1 and 'Traceback' not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith('ssd_train: ') and 'nowhere: no such folder' in done.stderr


# ---- training

def test_the_command_trains_and_writes_four_files(command, coco, tmp_path, capsys):
    args = '--out run --scratch --arch resnet8 --size 64 --epochs 2 --bs 4 --workers 0'.split()
    assert not command('ssd_train', '--data', coco, *args)
    run, said = tmp_path/'run', capsys.readouterr().out
    assert sorted(p.name for p in run.iterdir()) == FILES and '5 pictures to train, 3 to validate, 2 classes: cat, dog' in said
    facts, rows = json.loads((run/'metrics.json').read_text()), list(csv.DictReader((run/'history.csv').open()))
    assert len(rows) == 2 and [facts[k] for k in ('first_valid_loss', 'valid_loss')] == [float(r['valid_loss']) for r in rows]
    want = dict(classes=['cat', 'dog'], data='set', model='ssd', size=64, epochs=2, bs=4, arch='resnet8', frozen=0, augment='flip',
                anchors=6 * (16**2 + 8**2 + 4**2), n_train=5, n_valid=3, seed=6789)
    assert {k: facts[k] for k in want} == want and 'map50' in rows[0] and 0 <= facts['map'] <= facts['map50'] <= 1
    assert 'mAP50' in said and 'cat' in said and str(tmp_path) not in (run/'metrics.json').read_text()
    d = Detector.load(run/'detector.pt')
    assert (d.size, d.vocab.names, d.coder, len(d.anchors)) == (64, ['bg', 'cat', 'dog'], SSDCoder(), want['anchors'])
    assert len(d.predict(coco/'train'/'0.jpg', 0., 1.)) == 100
    report = evaluate_folder(coco, run/'detector.pt')
    assert (report.map50, report.map) == pytest.approx((facts['map50'], facts['map']), abs=1e-6)


def test_the_articles_model_is_still_there(voc, tmp_path):
    ssd_train(data=str(voc), out=str(tmp_path/'run'), model='article', augment='article', **SMALL)
    facts, d = json.loads((tmp_path/'run'/'metrics.json').read_text()), Detector.load(tmp_path/'run'/'detector.pt')
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == FILES
    assert (facts['model'], facts['anchors'], facts['augment'], len(d.anchors), d.size) == ('article', 4, 'article', 4, 64)
    assert 0 <= facts['map'] <= facts['map50'] <= 1 and repr(d.coder) == 'TanhCoder()'


@pytest.mark.parametrize('augment', ['flips', 'none'])
def test_a_voc_tree_trains(voc, tmp_path, augment):
    ssd_train(data=str(voc), out=str(tmp_path/'run'), augment=augment, **SMALL)
    facts = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == FILES
    assert (facts['n_train'], facts['n_valid'], facts['classes'], facts['augment']) == (6, 2, ['cat'], augment)


@pytest.mark.parametrize('model', ['ssd', 'article'])
def test_frozen_epochs_come_first(voc, tmp_path, model):
    ssd_train(data=str(voc), out=str(tmp_path/'run'), frozen=1, model=model, **SMALL)
    assert len(list(csv.DictReader((tmp_path/'run'/'history.csv').open()))) == 2


def test_the_seed_repeats_the_losses(coco, tmp_path):
    losses = []
    for i, seed in enumerate([1, 1, 2]):
        ssd_train(data=str(coco), out=str(tmp_path/str(i)), seed=seed, **SMALL)
        losses.append(json.loads((tmp_path/str(i)/'metrics.json').read_text())['valid_loss'])
    assert losses[2] != losses[0]
    if not torch.cuda.is_available(): assert losses[0] == losses[1]    # a GPU may add in another order


def test_pictures_without_any_object_can_be_evaluated(tmp_path):
    "A class that is nowhere in the validation set has no AP; without objects there is no mAP at all."
    coco = coco_dict(3)
    make_coco(tmp_path/'set'/'train.json', tmp_path/'set'/'train', 5)
    make_coco(tmp_path/'set'/'valid.json', tmp_path/'set'/'valid', coco=dict(coco, annotations=[]))
    ssd_train(data=str(tmp_path/'set'), out=str(tmp_path/'run'), **SMALL)
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == FILES
    text = (tmp_path/'run'/'metrics.json').read_text()
    facts = json.loads(text, parse_constant=lambda word: pytest.fail(f'{word} is not JSON'))
    assert facts['map50'] is None and facts['map'] is None and np.isfinite(facts['valid_loss'])


# ---- what is refused, and that it is refused before training

@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs): raise AssertionError('training has begun')
    monkeypatch.setattr('ssd_tutorial.cli.ssd_learner', fail)


def corrupt(root):
    truncate(noise(root/'JPEGImages'/'002.jpg', (64, 48)))
    return root


@pytest.mark.parametrize('given, pieces', [
    (dict(augment='lots'), ['--augment lots', "'article'", "'flip'", "'flips'", "'none'"]),
    (dict(model='yolo'), ['--model yolo', "'ssd'", "'article'"]), (dict(size=0), ['--size 0']),
    (dict(size=-64), ['--size -64', '32']), (dict(bs=0), ['--bs 0']), (dict(epochs=0), ['--epochs 0']),
    (dict(epochs=-1), ['--epochs -1']), (dict(frozen=-1), ['--frozen -1']), (dict(workers=-1), ['--workers -1', 'at least 0']),
    (dict(seed=-1), ['--seed -1', 'at least 0']), (dict(lr=0.), ['--lr 0', 'more than 0']), (dict(lr=-1.), ['--lr -1', '2e-3']),
    (dict(lr=float('nan')), ['--lr nan']), (dict(lr=float('inf')), ['--lr inf']),
    (dict(arch='resnet43'), ['--arch', 'resnet43', 'resnet34']), (dict(arch='vit_b_32'), ['--arch', 'vit_b_32', 'resnet34']),
    (dict(arch='vit_b_32', scratch=False), ['--arch', 'vit_b_32'])])
def test_options_that_make_no_sense_are_refused_before_anything_is_read(tmp_path, given, pieces):
    with refused(*pieces): ssd_train(data=str(tmp_path/'nowhere'), out=str(tmp_path/'run'), **{**SMALL, **given})
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_picture(voc, tmp_path, no_training):
    with refused('002.jpg', 'cut short', '--lenient'): ssd_train(data=str(corrupt(voc)), out=str(tmp_path/'run'), **SMALL)


def test_lenient_leaves_a_corrupt_picture_out(voc, tmp_path):
    ssd_train(data=str(corrupt(voc)), out=str(tmp_path/'run'), lenient=True, **SMALL)
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())['n_train'] == 5


def test_faulty_objects_and_lenient(voc, tmp_path):
    (voc/'Annotations'/'002.xml').write_text(voc_xml('002.jpg', voc_object('dog', (30, 5, 20, 9))))
    with refused('002.xml', "'dog'", 'reversed', '--lenient'): ssd_train(data=str(voc), out=str(tmp_path/'run'), **SMALL)
    ssd_train(data=str(voc), out=str(tmp_path/'run'), lenient=True, **SMALL)
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())['classes'] == ['cat']


@pytest.mark.parametrize('content, piece', [('empty', 'neither a Pascal VOC tree'), ('pictures', 'neither a Pascal VOC tree'),
                                            ('json', 'not a COCO file'), ('no_objects', 'class name'), ('one', 'valid_pct')])
def test_folders_that_cannot_be_trained_on(tmp_path, no_training, content, piece):
    root = tmp_path/'set'
    root.mkdir()
    if content == 'pictures': picture(root/'1.jpg')
    if content == 'json': (root/'notes.json').write_text('{}')
    if content == 'no_objects': make_coco(root/'train.json', coco=dict(coco_dict(10), annotations=[]))
    if content == 'one': make_coco(root/'train.json', n=1)
    with refused(piece): ssd_train(data=str(root), out=str(tmp_path/'run'), **SMALL)


def test_out_is_a_file(coco, tmp_path, no_training):
    (tmp_path/'run').write_text('mine')
    with refused('run'): ssd_train(data=str(coco), out=str(tmp_path/'run'), **SMALL)
    assert (tmp_path/'run').read_text() == 'mine'


def test_a_loss_that_is_not_finite_writes_no_detector(coco, tmp_path):
    with refused('lr'): ssd_train(data=str(coco), out=str(tmp_path/'run'), lr=1e30, **{**SMALL, 'epochs': 3})
    assert not (tmp_path/'run'/'detector.pt').exists()


def test_without_weights_to_download_it_goes_on_from_scratch(voc, tmp_path, monkeypatch, capsys):
    get_model = models.get_model
    def offline(name, **kw):
        if kw.get('weights') is not None: raise OSError('no route to host')
        return get_model('resnet18', **kw)
    monkeypatch.setattr(models, 'get_model', offline)
    ssd_train(data=str(voc), out=str(tmp_path/'run'), **{**SMALL, 'scratch': False, 'arch': 'resnet18', 'augment': 'flip', 'frozen': 0})
    said = capsys.readouterr().out
    assert 'no route to host' in said and 'from scratch' in said and 'pretrained=False' in said
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == FILES


# ---- prediction

def test_pictures_and_folders_are_predicted(command, detector, tmp_path, capsys):
    "Two files and a folder, in the order given; other files of the folder are left alone."
    files = [noise(tmp_path/'in'/n, s, i) for i, (n, s) in enumerate([('b.png', (64, 48)), ('a.jpg', (90, 30)), ('c.PNG', (30, 90))])]
    (tmp_path/'in'/'notes.txt').write_text('mine')
    one = noise(tmp_path/'x.jpg', (120, 80), 9)
    assert not command('ssd_predict', one, 'in', '--detector', detector, '--out', 'new/found', '--score', .55, '--overlap', .2)
    found, rows = tmp_path/'new'/'found', json.loads((tmp_path/'new'/'found'/'detections.json').read_text())
    assert [r['image'] for r in rows] == [str(one), 'in/a.jpg', 'in/b.png', 'in/c.PNG']
    assert [r['picture'] for r in rows] == ['x.png', 'a.png', 'b.png', 'c.png']
    assert sorted(p.name for p in found.iterdir()) == ['a.png', 'b.png', 'c.png', 'detections.json', 'x.png']
    assert f"{sum(len(r['objects']) for r in rows)} objects in 4 pictures" in capsys.readouterr().out
    d = Detector.load(detector)
    for r, file in zip(rows, [one, files[1], files[0], files[2]]):
        want = d.predict(file, .55, .2)
        assert (r['width'], r['height']) == want.image.size and 0 < len(r['objects']) == len(want) < 100
        for o, label, score, box in zip(r['objects'], want.labels, want.scores, want.boxes):
            assert o['label'] == label and o['score'] == pytest.approx(score, abs=1e-4) and o['box'] == pytest.approx(box.tolist(), abs=.06)
        with Image.open(found/r['picture']) as im: assert abs(im.width / im.height / (r['width'] / r['height']) - 1) < .15


@pytest.mark.parametrize('fourth', ['y.jpg', 'detections.jpg',
                                    'x-1.jpg', 'X-1.jpg'])
def test_pictures_of_one_name_do_not_overwrite_each_other(detector, tmp_path, fourth):
    files = [noise(tmp_path/n, seed=i) for i, n in enumerate(['a/x.png', 'b/x.png', 'b/x.jpg', f'b/{fourth}'])]
    facts = predict_files(files, detector, tmp_path/'out')
    names = [f['picture'] for f in facts]
    assert len({n.lower() for n in names}) == 4 and (fourth.lower() == 'x-1.jpg' or names[3] == f'{fourth[:-4]}.png')
    assert sorted(p.name for p in (tmp_path/'out').iterdir()) == sorted([*names, 'detections.json'])


def test_nothing_found_is_an_answer(detector, tmp_path):
    facts = predict_files([noise(tmp_path/'x.png')], detector, tmp_path/'out', score=1.)
    assert facts[0]['objects'] == [] and sorted(p.name for p in (tmp_path/'out').iterdir()) == ['detections.json', 'x.png']


@pytest.mark.parametrize('bad, pieces', [('cut', ['cut.jpg', '1 of 2', 'cut short']), ('text', ['text.jpg', 'not an image']),
                                         ('none', ['none.jpg', 'no such image']), ('empty', ['no pictures in', 'empty'])])
def test_a_picture_that_cannot_be_read_is_named_before_anything_is_written(detector, tmp_path, bad, pieces):
    given = [noise(tmp_path/'good.png')] * (bad != 'empty')
    if bad == 'cut': given.append(truncate(noise(tmp_path/'cut.jpg')))
    if bad in ('text', 'none'): given.append(tmp_path/f'{bad}.jpg')
    if bad == 'text': given[-1].write_text('no picture')
    if bad == 'empty': given.append(tmp_path/'empty'); given[-1].mkdir()
    before = content(tmp_path)
    with refused(*pieces, by='ssd_predict'): ssd_predict(images=list(map(str, given)), detector=str(detector), out=str(tmp_path/'out'))
    assert content(tmp_path) == before


@pytest.mark.parametrize('name, pieces', [('none.pt', ['none.pt: no such file']), ('x.png', ['x.png: not a detector'])])
def test_no_detector_no_answer(tmp_path, coco, name, pieces):
    image = str(noise(tmp_path/'x.png'))
    before = content(tmp_path)
    with refused(*pieces, by='ssd_predict'): ssd_predict(images=[image], detector=str(tmp_path/name), out=str(tmp_path/'out'))
    with refused(*pieces, by='ssd_evaluate'): ssd_evaluate(data=str(coco), detector=str(tmp_path/name))
    assert content(tmp_path) == before


def test_the_place_for_the_pictures_is_a_file(detector, tmp_path):
    (tmp_path/'out').write_text('mine')
    with refused('out', by='ssd_predict'): ssd_predict(images=[str(noise(tmp_path/'x.png'))], detector=str(detector), out=str(tmp_path/'out'))
    assert (tmp_path/'out').read_text() == 'mine'


# ---- evaluation

def test_the_command_prints_the_table_and_the_errors(command, detector, coco, capsys, tmp_path):
    before = content(coco)
    assert not command('ssd_evaluate', coco, '--detector', detector)
    said = capsys.readouterr().out
    for piece in ('3 pictures', 'mAP50', 'AP75', 'cat', 'dog', 'missed: low score', 'false alarm: background'): assert piece in said
    assert content(coco) == before and list(tmp_path.iterdir()) == [coco]


def test_each_picture_is_looked_at_once(detector, coco, monkeypatch):
    d, looked, ask = Detector.load(detector), [], Detector.decode_predictions
    monkeypatch.setattr(Detector, 'decode_predictions', lambda self, images: looked.extend(images) or ask(self, images))
    report = evaluate_folder(coco, detector)
    assert sorted(looked) == sorted(s.path for s in report.samples) and len(looked) == 3
    want = evaluate(d, report.samples)
    assert (report.map50, report.map) == (want.map50, want.map) and repr(report) == repr(want)


def test_which_pictures_are_evaluated(detector, voc, coco, tmp_path):
    (voc/'ImageSets'/'Main'/'test.txt').write_text('001\n007\n003\n')
    stems = lambda *args: [s.path.stem for s in evaluate_folder(*args).samples]
    assert stems(coco, detector) == ['0', '1', '2'] and len(stems(coco, detector, 'all')) == 8
    assert stems(voc, detector) == ['006', '007'] and stems(voc, detector, 'test') == ['001', '007', '003'] and len(stems(voc, detector, 'all')) == 8
    with refused('no list ImageSets/Main/holidays.txt', "'test', 'train', 'val'", by='ssd_evaluate'):
        ssd_evaluate(data=str(voc), detector=str(detector), split='holidays')


def test_without_lists_the_seed_holds_out_what_training_held_out(detector, tmp_path):
    root = make_voc(tmp_path, [f'{i:02d}' for i in range(10)], {})
    for seed in (6789, 1):
        assert [s.path for s in evaluate_folder(root, detector, seed=seed).samples] == [s.path for s in read_folder(root, seed=seed)[1]]


def test_classes_that_the_detector_does_not_know(detector, coco, tmp_path):
    d = Detector.load(detector)
    d.vocab = Vocab(['cow', 'dog'])
    other = str(d.save(tmp_path/'other.pt'))
    with refused('does not know', "['cat']", "['cow', 'dog']", by='ssd_evaluate'): ssd_evaluate(data=str(coco), detector=other)


def test_faulty_pictures_and_objects_in_evaluation(detector, voc):
    corrupt(voc); shutil.copy(voc/'JPEGImages'/'002.jpg', voc/'JPEGImages'/'007.jpg')
    (voc/'Annotations'/'006.xml').write_text(voc_xml('006.jpg', voc_object(), voc_object('dog', (30, 5, 20, 9))))
    with refused('006.xml', 'reversed', '--lenient', by='ssd_evaluate'): ssd_evaluate(data=str(voc), detector=str(detector))
    report = evaluate_folder(voc, detector, lenient=True)
    assert [s.path.stem for s in report.samples] == ['006'] and report.samples[0].labels == ['cat']


@pytest.mark.parametrize('content, piece', [('nowhere', 'no such folder'), ('empty', 'neither a Pascal VOC tree')])
def test_folders_that_cannot_be_evaluated(detector, tmp_path, content, piece):
    if content == 'empty': (tmp_path/content).mkdir()
    with refused(piece, by='ssd_evaluate'): ssd_evaluate(data=str(tmp_path/content), detector=str(detector))


# ---- which pictures are for training

def names(part): return sorted(s.path.stem for s in part)


def test_voc_lists_decide(voc):
    assert [names(p) for p in read_folder(voc)] == [[f'{i:03d}' for i in range(6)], ['006', '007']]
    (voc/'ImageSets'/'Main'/'val.txt').unlink()
    train, valid = read_folder(voc)
    assert (len(train), len(valid)) == (5, 1) and set(names(train + valid)) == {f'{i:03d}' for i in range(6)}


def test_voc_without_lists_is_split(tmp_path):
    train, valid = read_folder(make_voc(tmp_path, [f'{i:02d}' for i in range(10)], {}))
    assert (len(train), len(valid)) == (8, 2) and names(train + valid) == [f'{i:02d}' for i in range(10)]
    assert names(read_folder(tmp_path, seed=1)[1]) != names(valid) or names(read_folder(tmp_path, seed=2)[1]) != names(valid)


@pytest.mark.parametrize('layout', [
    dict(train=('train.json', 'train'), valid=('valid.json', 'valid')),
    dict(train=('annotations/instances_train2017.json', 'train2017'), valid=('annotations/instances_val2017.json', 'val2017')),
    dict(train=('train/_annotations.coco.json', 'train'), valid=('valid/_annotations.coco.json', 'valid'))])
def test_coco_layouts(tmp_path, layout):
    root = tmp_path/'validation of trains'
    for (file, images), n in zip(layout.values(), (5, 3)): make_coco(root/file, root/images, n)
    train, valid = read_folder(root)
    assert (len(train), len(valid)) == (5, 3) and train[0].path.parent.name == layout['train'][1]


def test_one_coco_file_is_split(tmp_path):
    make_coco(tmp_path/'annotations.json', tmp_path/'images', 10)
    train, valid = read_folder(tmp_path)
    assert (len(train), len(valid)) == (8, 2)
