import csv
from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback import fp16
from fastai.callback.core import Callback, CancelBatchException
from fastai.learner import AvgMetric
from fastai.optimizer import Adam, OptimWrapper
from torch import nn

from makers import samples
from ssd_tutorial import train
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.augment import ResizeTransform
from ssd_tutorial.data import ObjectDataset, Vocab, ssd_dataloaders
from ssd_tutorial.loss import MultiBoxLoss, SSDLoss
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.shapes import SHAPES
from ssd_tutorial.train import (
    BFloat16, FullBatchLoss, History, find_break, loss_terms, overfit_check, ssd_learner
)

SIZE = 64
VOCAB = Vocab(SHAPES)
COLUMNS = ['train_loss', 'valid_loss', 'class_loss', 'box_loss']


def learner(train, valid, bs=4, path=None, history=None, vocab=VOCAB, loss=SSDLoss,
            arch='resnet8', **kwargs):
    "The article's model and its anchors, or those of several grids for `MultiBoxLoss`."
    torch.manual_seed(1)
    maps = 2 if loss is MultiBoxLoss else 0
    model = ssd_model(arch, len(vocab), pretrained=False, maps=maps)
    datasets = [ObjectDataset(s, vocab, ResizeTransform(SIZE)) for s in (train, valid)]
    dls = ssd_dataloaders(*datasets, bs=bs, num_workers=0, seed=1)
    if isinstance(loss, type):
        loss = loss(make_anchors(grid_sizes(model, SIZE), (1.5,)), len(vocab))
    return ssd_learner(dls, model, loss, history, path=path, **kwargs)


def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn.history.rows


def valid_batch(learn):
    "All validation images at once, on the device of the model."
    device = next(learn.model.parameters()).device
    return [torch.stack(t).to(device) for t in zip(*learn.dls.valid.dataset)]


def terms_of(learn, part=slice(None)):
    "Class and box term of a part of the validation images."
    images, boxes, labels = (t[part] for t in valid_batch(learn))
    learn.model.eval()
    with torch.no_grad(): terms = learn.loss_func.terms(learn.model(images), boxes, labels)
    return [t.item() for t in terms]


@pytest.fixture
def learn(shapes16, tmp_path):
    return learner(shapes16[:9], shapes16[9:], path=tmp_path, history=tmp_path/'history.csv')


# ---- the table

def test_history_has_a_row_per_epoch_over_all_fits(learn, tmp_path):
    fit(learn, 1, 1e-3)
    fit(learn, 2, 1e-3)
    with open(tmp_path/'history.csv', newline='') as f: rows = list(csv.DictReader(f))
    assert [r['epoch'] for r in rows] == ['0', '1', '2'] and not learn.history.broken
    assert list(rows[0]) == ['epoch', *COLUMNS, 'seconds']
    for r, kept in zip(rows, learn.history.rows):
        assert {k: float(v) for k, v in r.items()} == kept
        total = kept['class_loss'] + kept['box_loss']
        assert total == pytest.approx(kept['valid_loss'], rel=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ['history.csv']


def test_more_metrics_are_columns(shapes16, tmp_path):
    def objects(preds, boxes, labels): return (labels > 0).sum() / len(labels)
    learn = learner(shapes16[:9], shapes16[9:], history=tmp_path/'h.csv',
                    metrics=[AvgMetric(objects)])
    row = fit(learn, 1, 1e-3)[0]
    assert list(row) == ['epoch', *COLUMNS, 'objects', 'seconds']
    assert row['objects'] == pytest.approx(sum(len(s.labels) for s in shapes16[9:]) / 7)
    assert (tmp_path/'h.csv').read_text().splitlines()[0].split(',') == list(row)


def test_history_needs_no_time_column(learn):
    learn.recorder.add_time = False
    assert list(fit(learn, 1, 1e-3)[0]) == ['epoch', *COLUMNS, 'seconds']


def test_validate_gives_the_same_again_and_adds_no_row(learn):
    row = fit(learn, 1, 1e-3)[0]
    with learn.no_bar(): again = learn.validate()
    assert list(again) == pytest.approx([row[k] for k in COLUMNS[1:]], rel=1e-4)
    assert len(learn.history.rows) == 1


def test_lr_find_gives_a_rate_and_leaves_weights_and_history(learn, tmp_path):
    before = [p.clone() for p in learn.model.parameters()]
    with learn.no_bar(), learn.no_logging(): found = learn.lr_find(num_it=12, show_plot=False)
    assert 0 < found[0] < 10
    assert learn.history.rows == [] and not (tmp_path/'history.csv').exists()
    after = learn.model.parameters()
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(before, after))
    assert len(fit(learn, 1, 1e-3)) == 1


# ---- the losses

def test_validation_loss_is_that_of_full_batches(learn):
    "7 pictures in batches of 4 and 3: the sum over all, times 4/7."
    row = fit(learn, 1, 1e-3)[0]
    terms = [t * 4 / 7 for t in terms_of(learn)]
    assert [row['class_loss'], row['box_loss']] == pytest.approx(terms, rel=1e-4)
    assert row['valid_loss'] == pytest.approx(sum(terms), rel=1e-4)


def test_the_validation_loss_of_a_mean_is_not_scaled(shapes16):
    "fastai weighs the batches of 4 and 3 by their pictures."
    learn = learner(shapes16[:9], shapes16[9:], loss=MultiBoxLoss)
    row = fit(learn, 1, 1e-3)[0]
    four = terms_of(learn, slice(4))
    three = terms_of(learn, slice(4, 7))
    terms = [(4 * a + 3 * b) / 7 for a, b in zip(four, three)]
    assert [row['class_loss'], row['box_loss']] == pytest.approx(terms, rel=1e-4)
    assert row['valid_loss'] == pytest.approx(sum(terms), rel=1e-4)


def test_the_two_terms_are_metrics_of_a_full_batch():
    class Fixed(nn.Module):
        reduction = 'sum'
        def terms(self, preds, boxes, labels): return boxes.sum(), 2 * boxes.sum()

    loss = Fixed()
    class_loss, box_loss = loss_terms(loss, bs=4)
    assert (class_loss.name, box_loss.name) == ('class_loss', 'box_loss')
    boxes = torch.ones(2, 1)
    assert class_loss.func(None, boxes, None) == 4 and box_loss.func(None, boxes, None) == 8
    loss.reduction = 'mean'
    assert class_loss.func(None, boxes, None) == 2 and box_loss.func(None, boxes, None) == 4


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_batches_without_objects_train(tmp_path, loss):
    train, valid = (samples(tmp_path/d, n, objects=lambda i: 0)
                    for d, n in [('train', 4), ('valid', 3)])
    rows = fit(learner(train, valid, bs=2, vocab=Vocab('abc'), loss=loss), 1, 1e-3)
    assert rows[0]['box_loss'] == 0
    assert 0 < rows[0]['valid_loss'] < 1e3 and rows[0]['train_loss'] < 1e3


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_one_batch_can_be_learnt_by_heart(shapes16, loss):
    learn = learner(shapes16[:4], shapes16[:4], loss=loss)
    rows = fit(learn, 45, 3e-3)
    for name in ('valid_loss', 'train_loss'): assert rows[-1][name] < .6 * rows[0][name]


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_loss_that_is_not_finite_stops_training(shapes16, bad):
    class Breaks(SSDLoss):
        n = 0
        def forward(self, *args):
            self.n += 1
            return super().forward(*args) * (bad if self.n == 2 else 1.)
    loss = Breaks(make_anchors(grids=(2,)), len(VOCAB))
    learn = learner(shapes16[:12], shapes16[12:], bs=2, loss=loss)
    assert fit(learn, 2, 1e-3) == [] and loss.n == 2 and learn.history.broken


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_broken_batch_leaves_the_weights_alone(shapes16, loss, dtype):
    "What broke is found in the state that broke it, and named."
    learn = learner(shapes16[:12], shapes16[12:], loss=loss, dtype=dtype)
    weights = [p.detach().clone() for p in learn.model.parameters()]
    terms = learn.loss_func.terms
    learn.loss_func.terms = lambda *args: (terms(*args)[0] * float('inf'), terms(*args)[1])
    assert fit(learn, 2, 1e-3) == []
    found = learn.finite_loss.found
    assert found.layer == '' and found.rows == [0, 1, 2, 3]
    assert found.terms['class_loss'] == float('inf') and np.isfinite(found.terms['box_loss'])
    for a, b in zip(weights, learn.model.parameters()): assert torch.equal(a, b)
    assert 'class_loss inf' in repr(found) and 'none, in 32 bits' in repr(found)


def test_the_layer_that_breaks_first_is_named(shapes16):
    learn = learner(shapes16[:8], shapes16[8:])
    batch = next(iter(learn.dls.train))
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    good = find_break(learn.model, learn.loss_func, batch)
    assert good.layer == '' and good.rows == []
    # nothing stays: statistics of batch norm, hooks
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    layers = [m for m in learn.model.modules() if not [*m.children()]]
    assert not any(m._forward_hooks for m in layers)
    names = [n for n, m in learn.model.named_modules() if isinstance(m, nn.Conv2d)]
    conv = learn.model.get_submodule(names[2])
    conv.register_forward_hook(lambda module, args, out: out * float('nan'))
    found = find_break(learn.model, learn.loss_func, batch)
    assert found.layer == f'result of {names[2]} (Conv2d)'
    with torch.no_grad(): conv.weight[0, 0, 0, 0] = float('inf')
    found = find_break(learn.model, learn.loss_func, batch)
    assert found.layer == f'weights of {names[2]}.weight'


def test_one_bad_image_of_a_batch_is_named(shapes16):
    learn = learner(shapes16[:8], shapes16[8:])
    # batch norm would carry it to all of them
    images, boxes, labels = next(iter(learn.dls.train))
    images[2] = float('nan')
    learn.model.eval()
    assert find_break(learn.model, learn.loss_func, (images, boxes, labels)).rows == [2]


@pytest.mark.parametrize('opt', ['plain', 'fastai'])
def test_other_optimisers_stop_too(shapes16, opt):
    learn = learner(shapes16[:8], shapes16[8:])
    learn.opt_func = Adam if opt == 'fastai' else partial(OptimWrapper, opt=torch.optim.SGD)
    learn.create_opt()
    assert fit(learn, 3, 1e30) == [] and learn.history.broken and learn.finite_loss.found.layer


# ---- four images by heart

def test_a_sound_learner_learns_four_images_by_heart(shapes16):
    learn = learner(shapes16[:8], shapes16[8:], loss=MultiBoxLoss)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    check = overfit_check(learn, steps=60)
    assert check.faults == [] and 'all is well' in repr(check) and len(check.losses) == 60
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert learn.history.rows == []


def test_what_is_not_learnt_is_named(shapes16):
    learn = learner(shapes16[:8], shapes16[8:], loss=MultiBoxLoss)
    check = overfit_check(learn, steps=20, lr=1e-9)
    assert len(check.faults) == 2 and 'class_loss hardly falls' in repr(check)


def test_a_frozen_head_is_named(shapes16):
    learn = learner(shapes16[:8], shapes16[8:])
    for p in learn.model.parameters(): p.requires_grad_(False)
    with pytest.raises(ValueError, match='unfreeze'): overfit_check(learn)


def test_wrong_anchors_are_refused_before_the_first_step(shapes16):
    wrong = SSDLoss(make_anchors(), len(VOCAB))
    learn = learner(shapes16[:8], shapes16[8:], loss=wrong)
    with pytest.raises(ValueError, match='grid_sizes'): fit(learn, 1)


def test_the_learner_takes_the_steps_of_a_plain_loop(shapes16):
    learn = learner(shapes16[:12], shapes16[12:])
    fit(learn, 1, 1e-3)
    other = learner(shapes16[:12], shapes16[12:])
    model = other.model.to(next(learn.model.parameters()).device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-5)
    model.train()
    for batch in other.dls.train:
        images, boxes, labels = (t.to(next(model.parameters()).device) for t in batch)
        other.loss_func(model(images), boxes, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(learn.model.parameters(), model.parameters()):
        assert torch.allclose(a, b, atol=1e-5)


# ---- half the bits

def bf16_state(model):
    "Whether anything of a batch is left: the mode, or hooks."
    device = next(model.parameters()).device.type
    return torch.is_autocast_enabled(device), len(model._forward_hooks)


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_mixed_precision_is_one_switch(shapes16, loss):
    "Weights and results stay in single precision, and the losses nearly what they are without."
    rows = {}
    for dtype in (torch.float32, torch.bfloat16):
        seen = []
        learn = learner(shapes16[:8], shapes16[8:], loss=loss, dtype=dtype)

        def look(module, args, out, seen=seen):
            seen.append((out if loss is SSDLoss else out[-1]).dtype)

        learn.model[0].register_forward_hook(look)
        rows[dtype] = fit(learn, 2, 1e-3)
        # training and validation alike
        assert set(seen) == {dtype}
        assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
        images = valid_batch(learn)[0]
        assert {p.dtype for p in learn.model(images)} == {torch.float32}
        assert seen[-1] == torch.float32 and bf16_state(learn.model) == (False, 0)
    for exact, rough in zip(*rows.values()):
        assert rough['train_loss'] == pytest.approx(exact['train_loss'], rel=.1)
        assert rough['train_loss'] != exact['train_loss']


def test_the_loss_is_computed_in_single_precision(shapes16):
    seen = []

    class Notes(SSDLoss):
        def forward(self, preds, boxes, labels):
            seen.extend(p.dtype for p in preds)
            seen.append(bool(torch.is_autocast_enabled(boxes.device.type)))
            return super().forward(preds, boxes, labels)

    loss = Notes(make_anchors(grids=(2,)), len(VOCAB))
    fit(learner(shapes16[:8], shapes16[8:], loss=loss, dtype=torch.bfloat16), 1, 1e-3)
    assert set(seen) == {torch.float32, False}


def test_nothing_is_left_of_a_forward_pass_that_fails(shapes16):
    learn = learner(shapes16[:8], shapes16[8:], dtype=torch.bfloat16)

    def broken(x): raise MemoryError('too much')

    learn.model[1].forward = broken
    with pytest.raises(MemoryError): fit(learn, 1)
    assert bf16_state(learn.model) == (False, 0)
    del learn.model[1].forward
    assert len(fit(learn, 1, 1e-3)) == 1 and bf16_state(learn.model) == (False, 0)


@pytest.mark.parametrize('error', [CancelBatchException, RuntimeError])
def test_nothing_is_left_of_a_batch_that_another_callback_ends(shapes16, error):
    class Skip(Callback):
        order = 99
        def before_batch(self):
            states.append(bf16_state(self.model))
            if len(states) == 2: raise error('skip the second batch')

    states = []
    learn = learner(shapes16[:12], shapes16[12:], dtype=torch.bfloat16, cbs=[Skip()])
    try: fit(learn, 1, 1e-3)
    except RuntimeError: assert error is RuntimeError
    assert len(states) == (2 if error is RuntimeError else 4)
    assert set(states) == {(False, 0)} == {bf16_state(learn.model)}


def test_strided_depthwise_convolutions_keep_32_bits_on_a_cpu(shapes16, monkeypatch):
    "Those that train; the others take part in mixed precision."
    seen = []

    def note(conv, x):
        seen.append((conv.stride, conv.groups > 1, conv.weight.requires_grad))
        return in_float32(conv, x)

    in_float32 = train._in_float32
    monkeypatch.setattr(train, '_in_float32', note)
    learn = learner(shapes16, shapes16[:4], bs=8, arch='mobilenet_v2', dtype=torch.bfloat16)
    fit(learn, 1, 1e-3)
    # two batches of training and one of validation, through four such convolutions
    assert seen == [((2, 2), True, True)] * 12
    assert not any('forward' in vars(m) for m in learn.model.modules())
    learn.freeze()
    fit(learn, 1, 1e-3)
    assert len(seen) == 12


def test_without_the_switch_there_is_no_callback(shapes16):
    for dtype in (torch.float32, torch.bfloat16):
        learn = learner(shapes16[:8], shapes16[8:], dtype=dtype)
        kinds = [type(cb) for cb in learn.cbs]
        half = dtype == torch.bfloat16
        assert (BFloat16 in kinds) == half and {FullBatchLoss, History} <= set(kinds)


@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_float16_trains_with_the_library_s_callback(shapes16, loss, monkeypatch):
    "fastai writes it for CUDA; the same classes of PyTorch take a CPU."
    seen = []
    monkeypatch.setattr(fp16, 'autocast', lambda device, **kw: torch.autocast('cpu', **kw))
    monkeypatch.setattr(fp16, 'GradScaler', lambda device, **kw: torch.GradScaler('cpu', **kw))
    learn = learner(shapes16[:4], shapes16[4:6], bs=2, loss=loss, dtype=torch.float16)
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.model[0].register_forward_hook(
        lambda module, args, out: seen.append((out if loss is SSDLoss else out[-1]).dtype))
    rows = fit(learn, 2, 1e-3)
    assert rows[-1]['train_loss'] < float('inf') and set(seen) == {torch.float16}
    assert any(not torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))


# ---- freezing, saving

@pytest.mark.parametrize('loss', [SSDLoss, MultiBoxLoss])
def test_a_frozen_body_has_only_batchnorm_that_learns(shapes16, loss):
    learn = learner(shapes16[:9], shapes16[9:], loss=loss)
    body, head = learn.model
    layers = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    norms = {id(p) for m in layers for p in m.parameters()}
    learn.freeze()
    assert norms and {id(p) for p in body.parameters() if p.requires_grad} == norms
    assert all(p.requires_grad for p in head.parameters())
    before = {n: p.clone() for n, p in learn.model.named_parameters()}
    fit(learn, 1, 1e-3)
    for n, p in learn.model.named_parameters():
        held = n.startswith('0.') and id(p) not in norms
        assert torch.equal(p.cpu(), before[n].cpu()) == held, n
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


def test_weights_are_saved_under_a_name_and_loaded(learn, tmp_path, shapes16):
    def same(weights, model):
        pairs = zip(weights, model.state_dict().values())
        return all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)

    fit(learn, 1, 1e-3)
    learn.save('one')
    want = [p.clone() for p in learn.model.state_dict().values()]
    fit(learn, 1, 1e-2)
    assert not same(want, learn.model)
    other = learner(shapes16[:9], shapes16[9:], path=tmp_path)
    for l in (learn, other): assert same(want, l.load('one').model)
