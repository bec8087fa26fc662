import contextlib
import csv
import json
import os
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from fastcore.script import anno_parser
from PIL import Image
from torchvision import models

from makers import (
    make_coco, make_voc, noise, speak_up, truncate, video, voc_object, voc_xml
)
from ssd_tutorial.anchors import SSDCoder, make_anchors
from ssd_tutorial.cli import ssd_check, ssd_evaluate, ssd_predict, ssd_train
from ssd_tutorial.data import Vocab
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.predict import Detector
from ssd_tutorial.recipes import PRESETS
from ssd_tutorial.runs import evaluate_folder

FILES = ['detector.pt', 'history.csv', 'metrics.json', 'predictions.png']
SMALL = dict(scratch=True, arch='resnet8', size=64, epochs=1, bs=4, workers=0)
OPTIONS = dict(
    ssd_train='data out model scratch arch size frozen epochs lr bs augment workers seed '
              'lenient',
    ssd_predict='detector out score nms',
    ssd_evaluate='detector split seed lenient', ssd_check='out fix seed')
MENTIONED = dict(ssd_train='article', ssd_predict='videos', ssd_evaluate='data',
                 ssd_check='annotated')


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
def refused(*pieces, by='ssd_train'):
    """A sentence for the user. `SystemExit` with a text goes to stderr, without a traceback,
    and gives exit code 1."""
    with pytest.raises(SystemExit) as e: yield
    said = e.value.code
    assert isinstance(said, str) and said.startswith(f'{by}: ')
    for piece in pieces: assert piece in said


@pytest.fixture
def command(tmp_path, monkeypatch):
    "Run what an installer writes as a command; in this process, as imports take seconds."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '200')

    def script(name):
        file = tmp_path.with_name(f'{tmp_path.name}_{name}.py')
        file.write_text(f'import sys\nfrom ssd_tutorial.cli import {name}\n'
                        f'sys.exit({name}())\n')
        return file

    def run(name, *args):
        monkeypatch.setattr(sys, 'argv', [str(script(name)), *map(str, args)])
        with pytest.raises(SystemExit) as e: runpy.run_path(sys.argv[0], run_name='__main__')
        return e.value.code

    run.script = script
    return run


# ---- help

@pytest.mark.parametrize('name', OPTIONS)
def test_help_lists_every_option(command, tmp_path, capsys, name):
    assert command(name, '--help') == 0 and list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    for option in OPTIONS[name].split(): assert f'--{option}' in said
    assert MENTIONED[name] in said


@pytest.mark.parametrize('name', [
    'arch', 'size', 'frozen', 'epochs', 'lr', 'bs', 'augment', 'class_loss', 'box_loss'])
def test_help_names_the_presets(name):
    "In brackets: that of pretrained weights, then what differs from scratch, and for shapes."
    texts = {a.dest: a.help for a in anno_parser(ssd_train)._actions}
    first, *others = re.split('[;,] ', re.search(r'\[(.*)\]$', texts[name])[1])
    written = dict(pretrained=first) | dict(other.split() for other in others)
    written = {'scratch': first, **written}
    written = {'shapes': written['scratch'], **written}
    for situation, settings in PRESETS['ssd'].items():
        value = settings[name]
        assert type(value)(written[situation]) == value


# ---- training

def test_the_command_trains_and_writes_four_files(command, coco, tmp_path, capsys):
    args = '--out run --scratch --arch resnet8 --size 64 --epochs 2 --bs 4 --workers 0'.split()
    assert not command('ssd_train', '--data', coco, *args)
    run = tmp_path/'run'
    said = capsys.readouterr().out
    assert names(run) == FILES
    assert 'COCO, split by names: 5 images to train (5 objects), 3 to validate (3)' in said
    assert 'mAP50' in said and 'cat' in said

    facts = facts_of(run)
    rows = list(csv.DictReader((run/'history.csv').open()))
    losses = [float(r['valid_loss']) for r in rows]
    assert len(rows) == 2 and 'map50' in rows[0]
    assert losses == [facts['first_valid_loss'], facts['valid_loss']]
    want = dict(classes=['cat', 'dog'], data='set', model='ssd', size=64, epochs=2, bs=4,
                arch='resnet8', frozen=0, augment='flip', anchors=6 * (16**2 + 8**2 + 4**2),
                n_train=5, n_valid=3, seed=6789)
    assert {k: facts[k] for k in want} == want
    assert 0 <= facts['map'] <= facts['map50'] <= 1
    assert str(tmp_path) not in (run/'metrics.json').read_text()

    d = Detector.load(run/'detector.pt')
    assert (d.size, d.vocab.names) == (64, ['bg', 'cat', 'dog'])
    assert (d.anchors.coder, len(d.anchors)) == (SSDCoder(), want['anchors'])
    assert len(d.predict(coco/'train'/'0.jpg', 0., 1., 1.)) == 100
    report = evaluate_folder(coco, run/'detector.pt')
    assert report.map50 == pytest.approx(facts['map50'], abs=1e-6)
    assert report.map == pytest.approx(facts['map'], abs=1e-6)


def test_all_options_reach_the_recipe(voc, tmp_path):
    ssd_train(data=str(voc), out=str(tmp_path/'run'), model='article', augment='none',
              frozen=1, lr=1e-3, seed=3, **SMALL)
    facts = facts_of(tmp_path/'run')
    want = dict(model='article', arch='resnet8', pretrained=False, size=64, frozen=1, epochs=1,
                lr=1e-3, bs=4, augment='none', seed=3, workers=0)
    assert {k: facts[k] for k in want} == want


def test_small_bodies_are_trained_from_scratch(voc, tmp_path):
    ssd_train(data=str(voc), out=str(tmp_path/'run'), **{**SMALL, 'scratch': False})
    facts = facts_of(tmp_path/'run')
    assert not facts['pretrained'] and facts['lr'] == PRESETS['ssd']['scratch']['lr']


def test_lenient_leaves_out_what_is_faulty(voc, tmp_path):
    truncate(noise(voc/'JPEGImages'/'002.jpg', (64, 48)))
    reversed_dog = voc_object('dog', (30, 5, 20, 9))
    (voc/'Annotations'/'001.xml').write_text(voc_xml('001.jpg', voc_object(), reversed_dog))
    with refused('001.xml', "'dog'", 'reversed', '--lenient'):
        ssd_train(data=str(voc), out=str(tmp_path/'run'), **SMALL)
    ssd_train(data=str(voc), out=str(tmp_path/'run'), lenient=True, **SMALL)
    facts = facts_of(tmp_path/'run')
    assert (facts['n_train'], facts['classes']) == (5, ['cat'])


@pytest.fixture
def offline(monkeypatch):
    get_model = models.get_model

    def without_weights(name, **kwargs):
        if kwargs.get('weights') is not None: raise OSError('no route to host')
        return get_model('resnet18', **kwargs)

    monkeypatch.setattr(models, 'get_model', without_weights)


def test_without_weights_to_download_it_goes_on_from_scratch(voc, tmp_path, offline, capsys):
    given = dict(SMALL, scratch=False, arch='resnet18', augment='flip', frozen=0)
    ssd_train(data=str(voc), out=str(tmp_path/'run'), **given)
    said = capsys.readouterr().out
    assert 'no route to host' in said and 'from scratch' in said and 'pretrained=False' in said
    assert names(tmp_path/'run') == FILES
    facts = facts_of(tmp_path/'run')
    assert not facts['pretrained'] and facts['lr'] == PRESETS['ssd']['scratch']['lr']


def test_the_folder_is_read_before_weights_are_downloaded(tmp_path, offline, capsys):
    with refused('nowhere: no such folder'):
        ssd_train(data=str(tmp_path/'nowhere'), out=str(tmp_path/'run'))
    assert capsys.readouterr().out == ''


# ---- what is refused

def test_a_new_process_refuses_in_one_sentence(command, tmp_path):
    program = [sys.executable, command.script('ssd_train')]
    env = dict(os.environ, PYTHONWARNINGS='ignore')
    done = subprocess.run([*program, '--data', 'nowhere', '--out', 'run'], cwd=tmp_path,
                          env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith('ssd_train: ')
    assert 'nowhere: no such folder' in done.stderr


@pytest.mark.parametrize('given, pieces', [
    (dict(augment='lots'), ["augment 'lots'", "'article'", "'flip'", "'flips'", "'none'"]),
    (dict(model='yolo'), ["model 'yolo'", "'ssd'", "'article'"]),
    (dict(size=0), ['size 0']), (dict(size=-64), ['size -64', '32']),
    (dict(bs=0), ['bs 0']), (dict(epochs=0), ['epochs 0']), (dict(epochs=-1), ['epochs -1']),
    (dict(frozen=-1), ['frozen -1']), (dict(workers=-1), ['workers -1', 'at least 0']),
    (dict(seed=-1), ['seed -1', 'at least 0']), (dict(lr=0.), ['lr 0', 'more than 0']),
    (dict(lr=-1.), ['lr -1', '2e-3']), (dict(lr=float('nan')), ['lr nan']),
    (dict(lr=float('inf')), ['lr inf']),
    (dict(arch='resnet43'), ['arch', 'resnet43', 'resnet34']),
    (dict(arch='vit_b_32'), ['arch', 'vit_b_32', 'resnet34']),
    (dict(arch='vit_b_32', scratch=False), ['arch', 'vit_b_32'])])
def test_options_that_make_no_sense_are_refused_before_anything_is_read(tmp_path, given,
                                                                        pieces):
    with refused(*pieces):
        ssd_train(data=str(tmp_path/'nowhere'), out=str(tmp_path/'run'), **{**SMALL, **given})
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_training_end_in_one_sentence(coco, tmp_path):
    (tmp_path/'file').write_text('mine')
    with refused('file'): ssd_train(data=str(coco), out=str(tmp_path/'file'), **SMALL)
    assert (tmp_path/'file').read_text() == 'mine'
    with refused('lr'):
        ssd_train(data=str(coco), out=str(tmp_path/'run'), lr=1e30, **{**SMALL, 'epochs': 3})
    assert not (tmp_path/'run'/'detector.pt').exists()


def test_mistakes_in_prediction_end_in_one_sentence(detector, tmp_path):
    image = noise(tmp_path/'x.png')
    cut = truncate(noise(tmp_path/'cut.jpg'))
    before = content(tmp_path)

    def predict(*images, detector=detector, out='out'):
        ssd_predict(images=list(map(str, images)), detector=str(detector),
                    out=str(tmp_path/out))

    by = 'ssd_predict'
    with refused('cut.jpg', '1 of 2', 'cut short', by=by): predict(image, cut)
    with refused('none.jpg', 'no such image', by=by): predict(tmp_path/'none.jpg')
    with refused('none.pt: no such file', by=by): predict(image, detector=tmp_path/'none.pt')
    with refused('x.png: not a detector', by=by): predict(image, detector=image)
    with refused('x.png', by=by): predict(image, out='x.png')
    assert content(tmp_path) == before


def test_mistakes_in_evaluation_end_in_one_sentence(detector, voc, tmp_path):
    def evaluate(data=voc, detector=detector, **kwargs):
        ssd_evaluate(data=str(data), detector=str(detector), **kwargs)

    by = 'ssd_evaluate'
    with refused('nowhere: no such folder', by=by): evaluate(tmp_path/'nowhere')
    with refused('none.pt: no such file', by=by): evaluate(detector=tmp_path/'none.pt')
    with refused('no list ImageSets/Main/holidays.txt', "'train', 'val'", by=by):
        evaluate(split='holidays')
    truncate(noise(voc/'JPEGImages'/'007.jpg'))
    with refused('007.jpg', 'cut short', '--lenient', by=by): evaluate()
    evaluate(lenient=True)


# ---- prediction and evaluation

SIZES = {'b.png': (64, 48), 'a.jpg': (90, 30), 'c.PNG': (30, 90)}


def test_images_and_folders_are_predicted(command, detector, tmp_path, capsys):
    "A file and a folder, in the order given; other files of the folder are left alone."
    for i, (name, size) in enumerate(SIZES.items()): noise(tmp_path/'in'/name, size, i)
    (tmp_path/'in'/'notes.txt').write_text('mine')
    one = noise(tmp_path/'x.jpg', (120, 80), 9)
    args = '--out new/found --score .55 --nms .2'.split()
    assert not command('ssd_predict', one, 'in', '--detector', detector, *args)

    found = tmp_path/'new'/'found'
    rows = json.loads((found/'detections.json').read_text())
    assert [r['image'] for r in rows] == [str(one), 'in/a.jpg', 'in/b.png', 'in/c.PNG']
    assert [r['annotated'] for r in rows] == ['x.png', 'a.png', 'b.png', 'c.png']
    assert names(found) == ['a.png', 'b.png', 'c.png', 'detections.json', 'x.png']
    n = sum(len(r['objects']) for r in rows)
    assert f'{n} objects in 4 images' in capsys.readouterr().out
    d = Detector.load(detector)
    for r in rows:
        check_objects(r, d.predict(r['image'], .55, .2))
        with Image.open(found/r['annotated']) as im: shape = im.width / im.height
        assert abs(shape / (r['width'] / r['height']) - 1) < .15


def check_objects(row, want):
    assert (row['width'], row['height']) == want.image.size
    assert 0 < len(row['objects']) == len(want) < 100
    for o, label, score, box in zip(row['objects'], want.labels, want.scores, want.boxes):
        assert o['label'] == label and o['score'] == pytest.approx(score, abs=1e-4)
        assert o['box'] == pytest.approx(box.tolist(), abs=.06)


def test_the_command_prints_the_table_and_the_errors(command, detector, coco, capsys, tmp_path):
    before = content(coco)
    assert not command('ssd_evaluate', coco, '--detector', detector)
    said = capsys.readouterr().out
    for piece in ('3 images', 'mAP50', 'AP75', 'cat', 'dog', 'false negative: low score',
                  'false positive: background'): assert piece in said
    assert content(coco) == before and list(tmp_path.iterdir()) == [coco]


# ---- videos

@pytest.fixture
def clip(tmp_path):
    for name in ('av', 'supervision', 'trackers'):
        pytest.importorskip(name, reason='extra video')
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return video(tmp_path/'in'/'clip.mp4', [pixels] * 5)


def test_videos_and_images_in_one_call(command, detector, clip, tmp_path, capsys):
    "The video of a folder is left alone, one that is named is taken."
    noise(tmp_path/'in'/'a.png')
    args = '--score', '.55', '--nms', '.2', '--detector', detector
    assert not command('ssd_predict', 'in', '--out', 'one', *args)
    assert names(tmp_path/'one') == ['a.png', 'detections.json']
    assert not command('ssd_predict', clip, 'in/a.png', '--out', 'two', *args)
    assert names(tmp_path/'two') == ['a.png', 'clip.json', 'clip.mp4', 'detections.json']
    facts = json.loads((tmp_path/'two'/'clip.json').read_text())
    assert len(facts['frames']) == 5 and sum(facts['counts'].values()) > 0
    scores = [o['score'] for f in facts['frames'] for o in f['objects']]
    assert min(scores) >= .55 / 2
    said = capsys.readouterr()
    assert 'in 5 frames' in said.out and '5/5' in said.err       # the progress bar


def test_mistakes_with_videos_end_in_one_sentence(detector, clip, tmp_path, monkeypatch):
    def predict(*videos, out='out'):
        ssd_predict(images=list(map(str, videos)), detector=str(detector),
                    out=str(tmp_path/out))

    before = content(tmp_path)
    by = 'ssd_predict'
    with refused('none.mp4: no such video', by=by): predict(tmp_path/'none.mp4')
    with refused('clip.mp4 would be overwritten', by=by): predict(clip, out='in')
    with refused('b/Clip.avi have the same name', by=by): predict(clip, 'b/Clip.avi')
    with refused('webcam 98 gives no image', by=by): predict('webcam:98')
    monkeypatch.setitem(sys.modules, 'trackers', None)
    with refused('trackers', 'pip install "ssd-tutorial[video]"', by=by): predict(clip)
    assert content(tmp_path) == before


@pytest.mark.parametrize('args', ['--epochs 3', '--overwrite', '--scratch', '--lr 1e-3'])
def test_resume_takes_no_other_settings(command, args):
    said = command('ssd_train', '--resume', 'run', *args.split())
    assert 'leave out all other options' in said


# ---- checking

def test_checking_ends_with_1_where_something_must_be_mended(command, coco, tmp_path, capsys):
    assert not command('ssd_check', coco)
    assert names(tmp_path/'runs'/'check') == ['problems.csv', 'problems.png']
    file = next(coco.rglob('*.jpg'))
    file.write_bytes(file.read_bytes()[:300])
    capsys.readouterr()
    assert command('ssd_check', coco, '--out', 'checked') == 1
    assert file.name in capsys.readouterr().out
    # what it has mended itself is fine
    assert not command('ssd_check', coco, '--out', 'checked', '--fix', 'mended')
    assert not command('ssd_check', 'mended', '--out', 'again')
    capsys.readouterr()
    with refused('mended: is there already', by='ssd_check'):
        ssd_check(data=str(coco), out='checked', fix='mended')


def test_checking_nothing_ends_in_a_sentence(tmp_path):
    with refused('no such folder', by='ssd_check'): ssd_check(data=str(tmp_path/'nowhere'))
