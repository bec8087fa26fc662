import csv

import pytest
import torch
from torch import nn

from makers import samples
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.augment import ResizeTransform
from ssd_tutorial.data import ObjectDataset, Vocab, ssd_dataloaders
from ssd_tutorial.loss import MultiBoxLoss, SSDLoss
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.shapes import SHAPES
from ssd_tutorial.readers import atomic_write
from ssd_tutorial.train import ssd_learner

SIZE, VOCAB = 64, Vocab(SHAPES)


def learner(train, valid, bs=4, path=None, history=None, vocab=VOCAB, loss=SSDLoss, **kwargs):
    "The article's model and its anchors, or those of several grids for `MultiBoxLoss`."
    torch.manual_seed(1)
    model = ssd_model('resnet8', len(vocab), pretrained=False, maps=2 * (loss is MultiBoxLoss))
    dls = ssd_dataloaders(*(ObjectDataset(s, vocab, ResizeTransform(SIZE)) for s in (train, valid)), bs=bs, num_workers=0, seed=1)
    if isinstance(loss, type): loss = loss(make_anchors(grid_sizes(model, SIZE), (1.5,)), len(vocab))
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


def test_the_validation_loss_of_a_mean_is_not_scaled(shapes16):
    "fastai weighs the batches of 4 and 3 by their pictures."
    learn = learner(shapes16[:9], shapes16[9:], loss=MultiBoxLoss)
    row = fit(learn, 1, 1e-3)[0]
    model, device = learn.model.eval(), next(learn.model.parameters()).device
    items = [torch.stack(t).to(device) for t in zip(*learn.dls.valid.dataset)]
    with torch.no_grad(): parts = [learn.loss_func.terms(model(items[0][p]), *(t[p] for t in items[1:])) for p in (slice(4), slice(4, 7))]
    terms = [(4 * a + 3 * b).item() / 7 for a, b in zip(*parts)]
    assert [row['class_loss'], row['box_loss']] == pytest.approx(terms, rel=1e-4) and row['valid_loss'] == pytest.approx(sum(terms), rel=1e-4)


def test_more_metrics_are_columns(shapes16, tmp_path):
    from fastai.learner import AvgMetric
    def objects(preds, boxes, labels): return (labels > 0).sum() / len(labels)
    learn = learner(shapes16[:9], shapes16[9:], history=tmp_path/'h.csv', metrics=[AvgMetric(objects)])
    row = fit(learn, 1, 1e-3)[0]
    assert list(row) == ['epoch', 'train_loss', 'valid_loss', 'class_loss', 'box_loss', 'objects', 'seconds']
    assert row['objects'] == pytest.approx(sum(len(s.labels) for s in shapes16[9:]) / 7)
    assert (tmp_path/'h.csv').read_text().splitlines()[0].split(',') == list(row)


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_mixed_precision_is_one_switch(shapes16, loss):
    "Weights and results stay in single precision, and the losses nearly what they are without."
    rows, seen = {}, []
    for bf16 in (False, True):
        learn = learner(shapes16[:8], shapes16[8:], loss=loss, bf16=bf16)
        learn.model[0].register_forward_hook(lambda m, i, out: seen.append((out if loss is SSDLoss else out[-1]).dtype))
        rows[bf16] = fit(learn, 2, 1e-3)
        assert learn.model.bf16 == bf16 and seen[-1] == (torch.bfloat16 if bf16 else torch.float32)
        assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
    for exact, rough in zip(rows[False], rows[True]):
        assert rough['train_loss'] == pytest.approx(exact['train_loss'], rel=.1) and rough['train_loss'] != exact['train_loss']


def test_validate_gives_the_same_again_and_adds_no_row(learn):
    row = fit(learn, 1, 1e-3)[0]
    with learn.no_bar(): again = learn.validate()
    assert list(again) == pytest.approx([row[k] for k in ('valid_loss', 'class_loss', 'box_loss')], rel=1e-4)
    assert len(learn.history.rows) == 1


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_a_frozen_body_has_only_batchnorm_that_learns(shapes16, loss):
    learn = learner(shapes16[:9], shapes16[9:], loss=loss)
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


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_batches_without_objects_train(tmp_path, loss):
    train, valid = (samples(tmp_path/d, n, objects=lambda i: 0) for d, n in [('train', 4), ('valid', 3)])
    rows = fit(learner(train, valid, bs=2, vocab=Vocab('abc'), loss=loss), 1, 1e-3)
    assert rows[0]['box_loss'] == 0 and 0 < rows[0]['valid_loss'] < 1e3 and rows[0]['train_loss'] < 1e3


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_one_batch_can_be_learnt_by_heart(shapes16, loss):
    learn = learner(shapes16[:4], shapes16[:4], loss=loss)
    rows = fit(learn, 45, 3e-3)
    assert rows[-1]['valid_loss'] < .6 * rows[0]['valid_loss'] and rows[-1]['train_loss'] < .6 * rows[0]['train_loss']


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
    with pytest.raises(ValueError, match='grid_sizes'): fit(learner(shapes16[:8], shapes16[8:], loss=SSDLoss(make_anchors(), len(VOCAB))), 1)


# ---- files

@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_the_old_one(tmp_path, error):
    file = tmp_path/'x.json'
    for old in (None, 'old'):
        if old: file.write_text(old)
        with pytest.raises(error), atomic_write(file) as f:
            f.write_text('half')
            raise error
        assert [p.name for p in tmp_path.iterdir()] == (['x.json'] if old else [])
    assert file.read_text() == 'old'
    with atomic_write(file) as f: f.write_text('new'); assert f.suffix == '.json' and file.read_text() == 'old'
    assert file.read_text() == 'new' and len(list(tmp_path.iterdir())) == 1
