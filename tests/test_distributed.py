"Several processes of `torchrun` on one CPU, over Gloo: the same training as that of one."
import json
import os
import signal
import subprocess
import sys
import time
from itertools import zip_longest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from ssd_tutorial.distributed import BatchShare, Distributed, from_processes, processes
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
from ssd_tutorial.distributed import is_first, processes
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
                              ('ssd', 'focal'), ('article', 'focal')):
        recipe = preset(model, 'scratch', epochs=2, size=64, bs=7, augment='none',
                        class_loss=class_loss)
        watch = Watch()
        learn = recipe_learner(train, valid, vocab, recipe, dtype=torch.float32, cbs=[watch],
                               metrics=lambda anchors: [MeanAP(anchors, .01)])
        learn.model.double()
        with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe)
        weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
        rows = [{k: v for k, v in r.items() if k != 'seconds'} for r in learn.history.rows]
        found[f'{model} {class_loss}'] = dict(
            losses=watch.losses, rows=rows, weights=weights[::1000].tolist(),
            norm=weights.norm().item(), valid=len(learn.dls.valid.dataset))
    if is_first(): print(json.dumps(found))
"""


def run(command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, env=ENV, **kwargs)


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "What one process and two have measured; the two share what is in the folder."
    folder = tmp_path_factory.mktemp('shared')
    make_shapes(folder/'set', 61)
    script = folder/'losses.py'
    script.write_text(LOSSES)
    found = []
    for start in ([sys.executable], TWO):
        done = run([*start, str(script), str(folder/'set')])
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


@pytest.mark.parametrize('kind', ['ssd hard_negatives', 'ssd varifocal', 'ssd focal',
                                  'article focal'])
def test_two_processes_make_the_training_of_one(both, kind):
    one, two = [found[kind] for found in both]
    assert len(one['losses']) == 2 * (49 // 7)
    assert two['losses'] == pytest.approx(one['losses'], rel=1e-6)
    assert two['weights'] == pytest.approx(one['weights'], abs=1e-5)
    assert two['norm'] == pytest.approx(one['norm'], rel=1e-6)


@pytest.mark.parametrize('kind', ['ssd hard_negatives', 'article focal'])
def test_what_is_measured_is_counted_once(both, kind):
    # 12 images to validate in batches of 7: of the second one process has 3 and one has 2
    one, two = [found[kind]['rows'] for found in both]
    assert [r['epoch'] for r in two] == [0, 1]
    for a, b in zip(one, two):
        assert b['train_loss'] == pytest.approx(a['train_loss'], rel=1e-4)
        assert b['map50'] == pytest.approx(a['map50'], abs=1e-3)
        # a mean over anchors depends on the batch; a sum over images does not
        rel = .02 if 'ssd' in kind else 1e-3
        assert b['valid_loss'] == pytest.approx(a['valid_loss'], rel=rel)


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_shares_make_up_the_batch(n, bs, world, drop_last):
    whole = BatchSampler(SequentialSampler(range(n)), bs, drop_last)
    shares = [[*BatchShare(whole, rank, world)] for rank in range(world)]
    for batch, *parts in zip_longest(whole, *shares):
        given_out = [i for part in parts if part for i in part]
        assert sorted(given_out) == batch
    assert not any([] in share for share in shares)
    if drop_last and bs >= world: assert {len(share) for share in shares} == {len(whole)}


def test_alone_nothing_happens(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    with processes(): assert not torch.distributed.is_initialized()
    assert from_processes(3) == [3]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    make_shapes(tmp_path_factory.mktemp('set')/'mine', 40)
    return tmp_path_factory.getbasetemp()/'set0'/'mine'


def test_one_process_writes_and_another_number_goes_on(data, tmp_path):
    out = tmp_path/'run'
    command = [*TWO, *COMMAND, '--data', str(data), '--epochs', '300', '--out', str(out)]
    # a session of its own, so that it can be interrupted as a whole
    training = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 120
    while not (out/'last.pt').is_file() and time.monotonic() < until: time.sleep(.1)
    assert (out/'last.pt').is_file(), training.communicate()
    workers = run(['pgrep', '-f', '--', f'-u -m ssd_tutorial.cli .*{out}']).stdout.split()
    assert len(workers) == 2
    os.kill(int(workers[-1]), signal.SIGKILL)
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


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    Distributed(4)
    with pytest.raises(ValueError, match='a batch of 3 cannot be shared among 4 processes'):
        Distributed(3)


def test_the_module_names_its_commands():
    done = run([sys.executable, '-m', 'ssd_tutorial.cli'])
    assert done.returncode == 1
    assert 'usage: python -m ssd_tutorial.cli train|predict|evaluate|check' in done.stderr
