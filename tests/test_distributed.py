"Several processes of `torchrun` on one CPU, over Gloo: the same training as that of one."
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ssd_tutorial.distributed import (
    first_alone, from_processes, processes, rank, share_batches, together
)
from ssd_tutorial.shapes import make_shapes

ENV = dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
TWO = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
COMMAND = ['-m', 'ssd_tutorial.cli', 'train', '--scratch', '--size', '64', '--augment', 'none']

LOSSES = """
import json, os, sys
import torch
from torch import nn
from fastai.callback.core import Callback
from ssd_tutorial.data import Vocab, split_samples
from ssd_tutorial.distributed import processes, rank
from ssd_tutorial.evaluate import MeanAP
from ssd_tutorial.recipes import fit_recipe, preset, recipe_learner
from ssd_tutorial.shapes import make_shapes

class Watch(Callback):
    "No statistics of the batch, no dropout; what was the loss of each step?"
    order = 12    # after `Distributed`
    def before_train(self):
        self.losses = getattr(self, 'losses', [])
        for layer in self.model.modules():
            if isinstance(layer, (nn.BatchNorm2d, nn.Dropout)): layer.eval()

    # 64 bits: what is left of a difference is no rounding
    def before_batch(self): self.learn.xb = tuple(x.double() for x in self.xb)

    def after_loss(self):
        if self.training: self.losses.append(self.loss.item())
        # fastai's recorder wants 32
        self.learn.loss = self.loss.float()

samples = make_shapes(sys.argv[1], 61)
train, valid = split_samples(samples, seed=0)
vocab = Vocab.from_samples(samples)
found = {}
with processes():
    for model, class_loss in (('ssd', 'hard_negatives'), ('ssd', 'varifocal'),
                              ('article', 'focal'), ('anchor_free', 'varifocal')):
        recipe = preset(model, 'scratch', frozen=1, epochs=1, size=64, bs=7, augment='none',
                        class_loss=class_loss)
        watch = Watch()
        learn = recipe_learner(train, valid, vocab, recipe, dtype=torch.float32, cbs=[watch],
                               metrics=lambda anchors: [MeanAP(anchors, .01)])
        learn.model.double()
        with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe)
        weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
        rows = [{k: v for k, v in r.items() if k != 'seconds'} for r in learn.history.rows]
        found[f'{model} {class_loss}'] = dict(
            losses=watch.losses, rows=rows, weights=weights[::100].tolist())
    if not rank(): print(json.dumps(found))
"""


def run(command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, env=ENV, **kwargs)


def test_two_processes_make_the_training_of_one(tmp_path):
    make_shapes(tmp_path/'set', 61)
    script = tmp_path/'losses.py'
    script.write_text(LOSSES)
    found = []
    for start in ([sys.executable], TWO):
        done = run([*start, str(script), str(tmp_path/'set')])
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    for kind in found[0]:
        one, two = [f[kind] for f in found]
        assert len(one['losses']) == 2 * (49 // 7)
        assert two['losses'] == pytest.approx(one['losses'], rel=1e-6), kind
        assert two['weights'] == pytest.approx(one['weights'], abs=1e-5), kind
        # 12 images to validate in batches of 7: one process has 7, the other one 5
        assert len(one['rows']) == len(two['rows']) == 2
        for a, b in zip(one['rows'], two['rows']): assert b == pytest.approx(a, rel=1e-5), kind


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_shares_make_up_the_whole(n, bs, world, train):
    bs = max(bs, world)
    loader = DataLoader(range(n), bs, drop_last=train)
    shares = [[*share_batches(loader, r, world)] for r in range(world)]
    if train:
        # all have the same steps
        assert {len(share) for share in shares} == {n // bs}
        steps = [torch.cat(parts).sort()[0].tolist() for parts in zip(*shares)]
        assert steps == [batch.tolist() for batch in loader]
    else:
        every = [batch.tolist() for share in shares for batch in share]
        assert sorted(every) == sorted(batch.tolist() for batch in loader)


@pytest.mark.parametrize('stray', [dict(RANK='1'), dict(RANK='3', WORLD_SIZE='4')])
def test_variables_of_others_change_nothing(monkeypatch, stray):
    for name, value in stray.items(): monkeypatch.setenv(name, value)
    with processes():
        assert not together() and rank() == 0
        assert from_processes(3) == [3]
        with first_alone(): pass


def test_alone_nothing_happens(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    with processes(): assert not torch.distributed.is_initialized()
    assert from_processes(3) == [3]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    make_shapes(tmp_path_factory.mktemp('set')/'mine', 40)
    return tmp_path_factory.getbasetemp()/'set0'/'mine'


def test_one_process_writes_and_another_number_goes_on(data, tmp_path):
    psutil = pytest.importorskip('psutil')
    out = tmp_path/'run'
    command = [*TWO, *COMMAND, '--data', str(data), '--epochs', '300', '--out', str(out)]
    # a session of its own, so that it can be interrupted as a whole
    training = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 120
    while not (out/'last.pt').is_file() and time.monotonic() < until: time.sleep(.1)
    assert (out/'last.pt').is_file(), training.communicate()
    children = psutil.Process(training.pid).children()
    workers = [p for p in children if 'ssd_tutorial.cli' in p.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    printed, said = training.communicate(timeout=60)
    assert training.returncode != 0
    # what is printed, is printed once
    assert printed.count('Recipe(') == 1
    # torchrun may have ended the other one before it could say anything
    assert said.count('another process of this training has ended') <= 1
    assert 'SIGKILL' in said
    state = torch.load(out/'last.pt', weights_only=True)
    done = len(state['rows'])
    assert done == len((out/'history.csv').read_text().splitlines()) - 1
    # the same training, but for its length, by one process
    state['facts']['recipe']['epochs'] = done + 1
    torch.save(state, out/'last.pt')
    resumed = run([sys.executable, '-m', 'ssd_tutorial.cli', 'train', '--resume', str(out)])
    assert resumed.returncode == 0, resumed.stderr
    assert len((out/'history.csv').read_text().splitlines()) == done + 2
    assert not (out/'last.pt').exists() and (out/'metrics.json').is_file()


def test_a_mistake_is_told_once(data, tmp_path):
    (tmp_path/'detector.pt').write_bytes(b'of a run')
    done = run([*TWO, *COMMAND, '--data', str(data), '--out', str(tmp_path)])
    assert done.returncode != 0
    assert done.stderr.count('holds a run already') == 1
    assert 'another process' not in done.stderr
    assert (tmp_path/'detector.pt').read_bytes() == b'of a run'


@pytest.mark.parametrize('given, said', [
    ('--bs 1', 'a batch of 1 cannot be shared among 2 processes; take a larger bs'),
    ('--lr 1e6 --epochs 20', 'try a lower one')], ids=['batch', 'rate'])
def test_a_mistake_of_all_is_told_once(data, tmp_path, given, said):
    out = tmp_path/'run'
    done = run([*TWO, *COMMAND, '--data', str(data), '--out', str(out), *given.split()])
    assert done.returncode != 0
    own = done.stderr.split('torch/distributed/elastic')[0]
    assert own.count('ssd_train:') == 1 and said in own, own
    assert 'Traceback' not in own and 'another process' not in own
    # what broke the training is kept, by one process
    kept = ['broken.png', 'broken.pt'] if 'lr' in given else []
    assert [name for name in ('broken.png', 'broken.pt') if (out/name).exists()] == kept


def test_the_module_names_its_commands():
    done = run([sys.executable, '-m', 'ssd_tutorial.cli'])
    assert done.returncode == 1
    assert 'usage: python -m ssd_tutorial.cli train|predict|evaluate|check' in done.stderr
