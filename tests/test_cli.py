import contextlib
import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from torchvision import models

from makers import coco_dict, make_coco, make_voc, noise, picture, truncate, voc_object, voc_xml
from ssd_tutorial.cli import read_folder, ssd_train
from ssd_tutorial.predict import Detector

FILES = ['detector.pt', 'history.csv', 'metrics.json', 'predictions.png']
SMALL = dict(scratch=True, size=64, epochs=1, bs=4, workers=0)


@pytest.fixture
def voc(tmp_path): return make_voc(tmp_path/'VOC2007', [f'{i:03d}' for i in range(8)])


@pytest.fixture
def coco(tmp_path):
    for split, n in dict(train=5, valid=3).items(): make_coco(tmp_path/'set'/f'{split}.json', tmp_path/'set'/split, n)
    return tmp_path/'set'


@contextlib.contextmanager
def refused(*pieces):
    "A sentence for the user: SystemExit with a text goes to stderr, without a traceback, and gives exit code 1."
    with pytest.raises(SystemExit) as e: yield
    said = e.value.code
    assert isinstance(said, str) and said.startswith('ssd_train: ')
    for piece in pieces: assert piece in said


def command(*args, cwd):
    "Run what an installer writes as the command `ssd_train`."
    script = cwd.with_name(f'{cwd.name}_script.py')
    script.write_text('import sys\nfrom ssd_tutorial.cli import ssd_train\nsys.exit(ssd_train())\n')
    return subprocess.run([sys.executable, script, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120,
                          env=dict(os.environ, COLUMNS='200', PYTHONWARNINGS='ignore'))


def test_help_lists_every_option(tmp_path):
    done = command('--help', cwd=tmp_path)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    for o in 'data out scratch arch size frozen epochs lr bs augment workers seed lenient'.split(): assert f'--{o}' in done.stdout


def test_the_command_trains_and_writes_four_files(coco, tmp_path):
    done = command('--data', coco, '--out', 'run', '--scratch', '--size', 64, '--epochs', 2, '--bs', 4, '--workers', 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path/'run'
    assert sorted(p.name for p in run.iterdir()) == FILES and '5 pictures to train, 3 to validate, 2 classes: cat, dog' in done.stdout
    facts, rows = json.loads((run/'metrics.json').read_text()), list(csv.DictReader((run/'history.csv').open()))
    assert len(rows) == 2 and [facts[k] for k in ('first_valid_loss', 'valid_loss')] == [float(r['valid_loss']) for r in rows]
    want = dict(classes=['cat', 'dog'], data='set', size=64, epochs=2, bs=4, arch='resnet10', frozen=0, anchors=4, n_train=5, n_valid=3,
                seed=6789)
    assert {k: facts[k] for k in want} == want
    assert str(tmp_path) not in (run/'metrics.json').read_text()
    d = Detector.load(run/'detector.pt')
    assert d.size == 64 and d.vocab.names == ['bg', 'cat', 'dog'] and len(d.predict(coco/'train'/'0.jpg', 0.)) == 4


def test_the_command_refuses_in_one_sentence(tmp_path):
    done = command('--data', 'nowhere', '--out', 'run', cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith('ssd_train: ') and 'nowhere: no such folder' in done.stderr


@pytest.mark.parametrize('augment', ['article', 'none'])
def test_a_voc_tree_trains(voc, tmp_path, augment):
    ssd_train(data=str(voc), out=str(tmp_path/'run'), augment=augment, **SMALL)
    facts = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == FILES
    assert (facts['n_train'], facts['n_valid'], facts['classes'], facts['augment']) == (6, 2, ['cat'], augment)


def test_frozen_epochs_come_first(voc, tmp_path):
    ssd_train(data=str(voc), out=str(tmp_path/'run'), frozen=1, **SMALL)
    assert len(list(csv.DictReader((tmp_path/'run'/'history.csv').open()))) == 2


def test_the_seed_repeats_the_losses(coco, tmp_path):
    losses = []
    for i, seed in enumerate([1, 1, 2]):
        ssd_train(data=str(coco), out=str(tmp_path/str(i)), seed=seed, **SMALL)
        losses.append(json.loads((tmp_path/str(i)/'metrics.json').read_text())['valid_loss'])
    assert losses[2] != losses[0]
    if not torch.cuda.is_available(): assert losses[0] == losses[1]    # a GPU may add in another order


# ---- what is refused, and that it is refused before training

@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs): raise AssertionError('training has begun')
    monkeypatch.setattr('ssd_tutorial.cli.ssd_learner', fail)


def corrupt(root):
    truncate(noise(root/'JPEGImages'/'002.jpg', (64, 48)))
    return root


@pytest.mark.parametrize('given, pieces', [
    (dict(augment='lots'), ['lots', "'article'", "'flip'", "'none'"]), (dict(arch='resnet43'), ['resnet43', 'resnet34']),
    (dict(size=0), ['size']), (dict(size=-64), ['size']), (dict(bs=0), []), (dict(epochs=0), ['epochs']), (dict(epochs=-1), ['epochs'])])
def test_options_that_make_no_sense(voc, tmp_path, no_training, given, pieces):
    with refused(*pieces): ssd_train(data=str(voc), out=str(tmp_path/'run'), **{**SMALL, **given})
    assert not list(tmp_path.glob('run/*'))


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
    ssd_train(data=str(voc), out=str(tmp_path/'run'), **{**SMALL, 'scratch': False})
    said = capsys.readouterr().out
    assert 'no route to host' in said and 'from scratch' in said and 'pretrained=False' in said
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == FILES


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
