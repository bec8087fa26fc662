import csv

import pytest
import torch
from torch import nn

from makers import samples
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.augment import resize_transform
from ssd_tutorial.data import ObjectDataset, Vocab, ssd_dataloaders
from ssd_tutorial.loss import SSDLoss
from ssd_tutorial.model import grid_size, ssd_model
from ssd_tutorial.shapes import SHAPES
from ssd_tutorial.train import ssd_learner, written_whole

SIZE, VOCAB = 64, Vocab(SHAPES)


def learner(train, valid, bs=4, path=None, history=None, vocab=VOCAB, loss=None, **kwargs):
    torch.manual_seed(1)
    model = ssd_model('resnet10', len(vocab), pretrained=False)
    dls = ssd_dataloaders(*(ObjectDataset(s, vocab, resize_transform(SIZE)) for s in (train, valid)), bs=bs, num_workers=0, seed=1)
    loss = loss or SSDLoss(make_anchors(grids=(grid_size(model, SIZE),)), len(vocab))
    return ssd_learner(dls, model, loss, history, path=path, **kwargs)


def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn.history.rows


@pytest.fixture
def learn(shapes16, tmp_path): return learner(shapes16[:9], shapes16[9:], path=tmp_path, history=tmp_path/'history.csv')


def test_history_has_a_row_per_epoch_over_all_fits(learn, tmp_path):
    fit(learn, 1, 1e-3); fit(learn, 2, 1e-3)
    with open(tmp_path/'history.csv', newline='') as f: rows = list(csv.DictReader(f))
    assert [r['epoch'] for r in rows] == ['0', '1', '2']
    assert list(rows[0]) == ['epoch', 'train_loss', 'valid_loss', 'class_loss', 'box_loss', 'seconds']
    for r, kept in zip(rows, learn.history.rows):
        assert {k: float(v) for k, v in r.items()} == kept
        assert kept['class_loss'] + kept['box_loss'] == pytest.approx(kept['valid_loss'], rel=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ['history.csv']


def test_validation_loss_is_that_of_full_batches(learn):
    "7 pictures in batches of 4 and 3: the sum over all, times 4/7."
    row = fit(learn, 1, 1e-3)[0]
    model, device = learn.model.eval(), next(learn.model.parameters()).device
    items = [torch.stack(t).to(device) for t in zip(*learn.dls.valid.dataset)]
    with torch.no_grad(): terms = [t.item() * 4 / 7 for t in learn.loss_func.terms(model(items[0]), *items[1:])]
    assert row['class_loss'] == pytest.approx(terms[0], rel=1e-4) and row['box_loss'] == pytest.approx(terms[1], rel=1e-4)
    assert row['valid_loss'] == pytest.approx(sum(terms), rel=1e-4)


def test_validate_gives_the_same_again_and_adds_no_row(learn):
    row = fit(learn, 1, 1e-3)[0]
    with learn.no_bar(): again = learn.validate()
    assert list(again) == pytest.approx([row[k] for k in ('valid_loss', 'class_loss', 'box_loss')], rel=1e-4)
    assert len(learn.history.rows) == 1


def test_a_frozen_body_has_only_batchnorm_that_learns(learn):
    body, head = learn.model
    norms = {id(p) for m in body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    learn.freeze()
    assert norms and {id(p) for p in body.parameters() if p.requires_grad} == norms
    assert all(p.requires_grad for p in head.parameters())
    before = {n: p.clone() for n, p in learn.model.named_parameters()}
    fit(learn, 1, 1e-3)
    for n, p in learn.model.named_parameters():
        assert torch.equal(p.cpu(), before[n].cpu()) == (n.startswith('0.') and id(p) not in norms), n
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


def test_weights_are_saved_under_a_name_and_loaded(learn, tmp_path, shapes16):
    fit(learn, 1, 1e-3)
    learn.save('one')
    want = [p.clone() for p in learn.model.state_dict().values()]
    fit(learn, 1, 1e-2)
    assert not all(torch.equal(a, b) for a, b in zip(want, learn.model.state_dict().values()))
    other = learner(shapes16[:9], shapes16[9:], path=tmp_path)
    for l in (learn, other): assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(want, l.load('one').model.state_dict().values()))


def test_lr_find_gives_a_rate_and_leaves_weights_and_history(learn, tmp_path):
    before = [p.clone() for p in learn.model.parameters()]
    with learn.no_bar(), learn.no_logging(): found = learn.lr_find(num_it=12, show_plot=False)
    assert 0 < found[0] < 10 and learn.history.rows == [] and not (tmp_path/'history.csv').exists()
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(before, learn.model.parameters()))
    assert len(fit(learn, 1, 1e-3)) == 1


def test_batches_without_objects_train(tmp_path):
    train, valid = (samples(tmp_path/d, n, objects=lambda i: 0) for d, n in [('train', 4), ('valid', 3)])
    rows = fit(learner(train, valid, bs=2, vocab=Vocab('abc')), 1, 1e-3)
    assert rows[0]['box_loss'] == 0 and 0 < rows[0]['valid_loss'] < 1e3 and rows[0]['train_loss'] < 1e3


def test_one_batch_can_be_learnt_by_heart(shapes16):
    learn = learner(shapes16[:4], shapes16[:4])
    rows = fit(learn, 25, 3e-3)
    assert rows[-1]['valid_loss'] < .5 * rows[0]['valid_loss'] and rows[-1]['train_loss'] < .7 * rows[0]['train_loss']


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_loss_that_is_not_finite_stops_training(shapes16, bad):
    class Breaks(SSDLoss):
        n = 0
        def forward(self, *args):
            self.n += 1
            return super().forward(*args) * (bad if self.n == 2 else 1.)
    loss = Breaks(make_anchors(grids=(2,)), len(VOCAB))
    fit(learner(shapes16[:12], shapes16[12:], bs=2, loss=loss), 2, 1e-3)
    assert loss.n == 2


def test_wrong_anchors_are_refused_before_the_first_step(shapes16):
    with pytest.raises(ValueError, match='grid_size'): fit(learner(shapes16[:8], shapes16[8:], loss=SSDLoss(make_anchors(), len(VOCAB))), 1)


# ---- files

@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_the_old_one(tmp_path, error):
    file = tmp_path/'x.json'
    for old in (None, 'old'):
        if old: file.write_text(old)
        with pytest.raises(error), written_whole(file) as f:
            f.write_text('half')
            raise error
        assert [p.name for p in tmp_path.iterdir()] == (['x.json'] if old else [])
    assert file.read_text() == 'old'
    with written_whole(file) as f: f.write_text('new'); assert f.suffix == '.json' and file.read_text() == 'old'
    assert file.read_text() == 'new' and len(list(tmp_path.iterdir())) == 1
