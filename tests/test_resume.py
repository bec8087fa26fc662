"""A training that dies at any moment goes on to the weights that it would have had."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from ssd_tutorial import runs
from ssd_tutorial.loss import MultiBoxLoss
from ssd_tutorial.predict import Detector
from ssd_tutorial.recipes import preset
from ssd_tutorial.runs import LAST, RUN_FILES, resume_training, train_detector
from ssd_tutorial.shapes import make_shapes
from ssd_tutorial.train import load_checkpoint, read_checkpoint

KILL = getattr(signal, 'SIGKILL', signal.SIGTERM)    # Windows has only the other
# both parts of a training, and augmentation with random numbers of its own
RECIPE = preset('ssd', 'scratch', arch='resnet8', size=64, bs=4, frozen=2, epochs=3, lr=1e-3,
                workers=0, augment='photo')
TRAIN = f"""
from ssd_tutorial.recipes import Recipe
from ssd_tutorial.runs import train_detector
train_detector('data', 'run', {RECIPE!r})
"""


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
    "A folder of images, and the facts of a training that nothing has interrupted."
    folder = tmp_path_factory.mktemp('resume')
    make_shapes(folder/'data', 24)
    train_detector(folder/'data', folder/'whole', RECIPE)
    return folder


def epochs_done(run):
    "Epochs of the checkpoint in a folder; 0 without one."
    return len(read_checkpoint(run/LAST)['rows']) if (run/LAST).is_file() else 0


def weights(run): return Detector.load(run/'detector.pt').model.state_dict()


def facts(run):
    "What metrics.json says, without times."
    said = json.loads((run/'metrics.json').read_text())
    return {k: v for k, v in said.items() if 'seconds' not in k}


def assert_the_same(run, whole):
    ours = weights(run)
    theirs = weights(whole/'whole')
    assert all(ours[name].equal(w) for name, w in theirs.items())
    assert facts(run) == facts(whole/'whole')
    assert sorted(p.name for p in run.iterdir()) == sorted(RUN_FILES)


class Dies(Exception): pass


def dying(monkeypatch, step):
    "Let the `step`-th step of a training die, whichever epoch it belongs to."
    forward = MultiBoxLoss.forward
    steps = []

    def count(self, *args):
        steps.append(1)
        if len(steps) == step: raise Dies
        return forward(self, *args)

    monkeypatch.setattr(MultiBoxLoss, 'forward', count)


# an epoch has 5 steps, and one batch to validate
@pytest.mark.parametrize('step', random.Random(0).sample(range(7, 31), 10))
def test_ten_moments_of_death(whole, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch:
        dying(patch, step)
        with pytest.raises(Dies): train_detector(whole/'data', tmp_path/'run', RECIPE)
    assert (tmp_path/'run'/LAST).is_file()
    resume_training(tmp_path/'run')
    assert_the_same(tmp_path/'run', whole)


def test_two_deaths(whole, tmp_path, monkeypatch):
    for step in (9, 11):
        with monkeypatch.context() as patch:
            dying(patch, step)
            with pytest.raises(Dies):
                if step == 9: train_detector(whole/'data', tmp_path/'run', RECIPE)
                else: resume_training(tmp_path/'run')
    resume_training(tmp_path/'run')
    assert_the_same(tmp_path/'run', whole)


def test_death_while_the_files_are_written(whole, tmp_path, monkeypatch):
    "As of a full disk, after the last epoch: nothing of the training is lost."
    with monkeypatch.context() as patch:
        save = Detector.save

        def full(self, path):
            if epochs_done(tmp_path/'run') == 5: raise ZeroDivisionError
            return save(self, path)

        patch.setattr(Detector, 'save', full)
        with pytest.raises(ZeroDivisionError):
            train_detector(whole/'data', tmp_path/'run', RECIPE)
    (tmp_path/'run'/'.part-1-detector.pt').write_bytes(b'half')
    resume_training(tmp_path/'run')
    assert_the_same(tmp_path/'run', whole)


# seconds after the first epoch; `make fuzz` adds thirty random moments
KILLS = [(KILL, 0), (signal.SIGTERM, 0)]
rng = random.Random(os.environ.get('SEED'))
KILLS += [(KILL, rng.uniform(0, 1)) for _ in range(int(os.environ.get('KILLS', 0)))]


@pytest.mark.parametrize('n', range(len(KILLS)))
def test_a_process_that_is_killed(whole, tmp_path, n):
    signal, moment = KILLS[n]
    os.symlink(whole/'data', tmp_path/'data')
    process = subprocess.Popen([sys.executable, '-c', TRAIN], cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path/'run'/LAST
    while process.poll() is None and not last.is_file(): time.sleep(.01)
    time.sleep(moment)
    process.send_signal(signal)
    process.wait()
    print('killed' if last.is_file() else 'was done')
    # it may have been done already
    if last.is_file(): resume_training(tmp_path/'run')
    assert_the_same(tmp_path/'run', whole)


def test_other_data_are_not_gone_on_with(whole, tmp_path, monkeypatch):
    make_shapes(tmp_path/'data', 24)
    with monkeypatch.context() as patch:
        dying(patch, 9)
        with pytest.raises(Dies): train_detector(tmp_path/'data', tmp_path/'run', RECIPE)
    os.rename(tmp_path/'data', tmp_path/'old')
    make_shapes(tmp_path/'data', 24, seed=1)
    with pytest.raises(ValueError, match='not those that the training .* began with'):
        resume_training(tmp_path/'run')


def test_a_flipped_byte_of_a_checkpoint_is_found(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        dying(patch, 9)
        with pytest.raises(Dies): train_detector(whole/'data', tmp_path/'run', RECIPE)
    file = tmp_path/'run'/LAST
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match='no checkpoint, or a damaged one'):
        resume_training(tmp_path/'run')


@pytest.mark.parametrize('epoch', [1, 3])
def test_a_training_that_breaks_is_not_gone_on_with(whole, tmp_path, monkeypatch, epoch):
    "With the body still frozen, and later."
    forward = MultiBoxLoss.forward

    def breaks(self, *args):
        value = forward(self, *args)
        return value * float('nan') if epochs_done(tmp_path/'run') == epoch else value

    monkeypatch.setattr(MultiBoxLoss, 'forward', breaks)
    with pytest.raises(ValueError, match=f'no longer finite in epoch {epoch} '):
        train_detector(whole/'data', tmp_path/'run', RECIPE)
    assert epochs_done(tmp_path/'run') == 0 and (tmp_path/'run'/'broken.pt').is_file()


@pytest.mark.parametrize('content', [b'', b'hello', b'PK'])
def test_a_damaged_checkpoint(tmp_path, content):
    (tmp_path/LAST).write_bytes(content)
    with pytest.raises(ValueError, match='last.pt: no checkpoint, or a damaged one'):
        resume_training(tmp_path)


def test_a_checkpoint_that_lacks_a_part(tmp_path):
    torch.save(dict(rows=[], weights={}), tmp_path/'x.pt')
    with pytest.raises(ValueError, match='no checkpoint'): read_checkpoint(tmp_path/'x.pt')
    with pytest.raises(FileNotFoundError): load_checkpoint(None, tmp_path/'none.pt')


# ---- folders of runs

def test_a_folder_belongs_to_one_run(whole, tmp_path, monkeypatch):
    run = tmp_path/'run'
    run.mkdir()
    kept = [run/'notes.txt', run/'.part-1-x.png', run/'shapes']
    kept[-1].mkdir()
    for file in kept[:2]: file.write_text('not of a training')
    (run/'.part-1-detector.pt').write_text('left by a process that was killed')
    (run/'metrics.json').write_text('of another run')
    with pytest.raises(ValueError, match='holds a run already .metrics.json.*--overwrite'):
        train_detector(whole/'data', run, RECIPE)
    assert (run/'metrics.json').read_text() == 'of another run'
    # nothing is lost as long as the new run has not begun
    with pytest.raises(FileNotFoundError):
        train_detector(whole/'nowhere', run, RECIPE, overwrite=True)
    assert (run/'metrics.json').read_text() == 'of another run'
    monkeypatch.setattr(runs, 'fit_recipe', lambda *args: None)
    monkeypatch.setattr(runs, '_judge', lambda *args: None)
    train_detector(whole/'data', run, RECIPE, overwrite=True)
    assert sorted(run.iterdir()) == sorted(kept)


def test_an_interrupted_run_is_not_begun_anew(tmp_path):
    (tmp_path/LAST).write_text('')
    with pytest.raises(ValueError, match='go on with it by --resume'):
        train_detector('shapes', tmp_path, RECIPE)
    with pytest.raises(ValueError, match='holds no interrupted training'):
        resume_training(tmp_path/'other')
