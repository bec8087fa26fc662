import dataclasses

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import AvgMetric
from torchvision import models

from ssd_tutorial.augment import ResizeTransform
from ssd_tutorial.data import Vocab
from ssd_tutorial.loss import MultiBoxLoss, SSDLoss
from ssd_tutorial.model import early_layers
from ssd_tutorial.recipes import (
    AUGMENT, HEADS, PRESETS, Recipe, fit_recipe, preset, recipe_learner, recipe_loaders,
    recipe_model
)
from ssd_tutorial.shapes import SHAPES
from ssd_tutorial.train import HALF, BFloat16

VOCAB = Vocab(SHAPES)
SITUATIONS = [(model, situation) for model in PRESETS for situation in PRESETS[model]]
SMALL = dict(arch='resnet8', size=64, epochs=1, bs=4, workers=0)


def small(model='ssd', situation='scratch', **given):
    return preset(model, situation, **{**SMALL, **given})


def fit(learn, recipe):
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe)
    return learn.history.rows


# ---- settings

@pytest.mark.parametrize('model, situation', SITUATIONS)
def test_every_preset_is_a_recipe(model, situation):
    recipe = preset(model, situation)
    want = dict(PRESETS[model][situation], model=model, seed=6789, workers=None)
    assert dataclasses.asdict(recipe) == want
    assert (recipe.pretrained, recipe.frozen > 0) == (situation == 'pretrained',) * 2


def test_the_article_trains_as_the_article_does():
    recipe = preset('article', 'pretrained')
    settings = (recipe.arch, recipe.size, recipe.frozen, recipe.epochs, recipe.lr, recipe.bs)
    assert settings == ('resnet34', 224, 20, 30, 1e-4, 64)


def test_what_is_given_takes_the_place_of_the_preset():
    recipe = preset('ssd', 'shapes', epochs=3, lr=1e-4, augment='none', arch='resnet18')
    assert (recipe.epochs, recipe.lr, recipe.augment) == (3, 1e-4, 'none')
    assert (recipe.arch, recipe.size) == ('resnet18', PRESETS['ssd']['shapes']['size'])
    assert preset() == preset('ssd', 'pretrained')


def test_a_recipe_cannot_be_changed():
    recipe = preset('ssd', 'shapes')
    with pytest.raises(dataclasses.FrozenInstanceError): recipe.epochs = 3
    assert dataclasses.replace(recipe, epochs=3).epochs == 3
    with pytest.raises(ValueError, match='epochs 0'): dataclasses.replace(recipe, epochs=0)


@pytest.mark.parametrize('model, situation', SITUATIONS)
def test_the_repr_makes_the_recipe_again(model, situation):
    recipe = preset(model, situation, seed=3, workers=2)
    lines = repr(recipe).split('\n')
    assert eval(repr(recipe)) == recipe and max(map(len, lines)) <= 88


@pytest.mark.parametrize('given, pieces', [
    (dict(augment='lots'), ["augment 'lots'", "'article'", "'flip'", "'flips'", "'none'"]),
    (dict(model='yolo'), ["model 'yolo'", "'ssd'", "'article'"]),
    (dict(size=0), ['size 0', 'at least 32']), (dict(size=-64), ['size -64', 'at least 32']),
    (dict(size=64.5), ['size 64.5', 'whole number']), (dict(size='64'), ["size '64'"]),
    (dict(bs=0), ['bs 0', 'at least 1']), (dict(epochs=0), ['epochs 0', 'at least 1']),
    (dict(epochs=-1), ['epochs -1']), (dict(epochs=None), ['epochs None', 'whole number']),
    (dict(frozen=-1), ['frozen -1', 'at least 0']),
    (dict(workers=-1), ['workers -1', 'at least 0']),
    (dict(seed=-1), ['seed -1', 'at least 0']),
    (dict(lr=0.), ['lr 0', 'more than 0']), (dict(lr=-1.), ['lr -1', '2e-3']),
    (dict(lr=float('nan')), ['lr nan']), (dict(lr=float('inf')), ['lr inf', 'finite']),
    (dict(lr='2e-3'), ["lr '2e-3'"]), (dict(lr=None), ['lr None']),
    (dict(pretrained=True), ['pretrained True', 'resnet8', 'pretrained=False', 'resnet34']),
    (dict(arch='resnet43'), ["arch 'resnet43'", 'resnet34']),
    (dict(arch='vit_b_32'), ["arch 'vit_b_32'", 'resnet34']),
    (dict(epoch=3), ["setting 'epoch'", "'epochs'"]),
    (dict(situation='photos'), ["situation 'photos'", "'shapes'", "'scratch'"])])
def test_settings_that_make_no_sense_are_refused(given, pieces):
    with pytest.raises(ValueError) as e: small(**given)
    for piece in pieces: assert piece in str(e.value)


def test_whole_numbers_of_numpy_are_welcome():
    recipe = small(size=np.int64(96), lr=np.float64(1e-3))
    assert (recipe.size, recipe.lr) == (96, 1e-3)


# ---- model, loaders, learner

def test_the_model_and_its_anchors_fit(shapes16):
    model, loss = recipe_model(small('ssd'), shapes16, VOCAB)
    assert type(loss) is MultiBoxLoss and len(loss.anchors) == 6 * (16**2 + 8**2 + 4**2)
    assert model.config == dict(arch='resnet8', n_classes=len(VOCAB), neck=None, numbers=4,
                                **HEADS['ssd'])
    with torch.no_grad(): classes, acts = model.eval()(torch.zeros(1, 3, 64, 64))
    assert classes.shape == (1, len(loss.anchors), len(VOCAB))
    assert acts.shape == (1, len(loss.anchors), 4)


def test_the_articles_anchors_do_not_depend_on_the_data(shapes16):
    for train in (shapes16, []):
        model, loss = recipe_model(small('article'), train, VOCAB)
        assert type(loss) is SSDLoss and len(loss.anchors) == 2 * 2


def test_weights_that_cannot_be_had_are_an_error_of_the_connection(shapes16, monkeypatch):
    def offline(name, **kwargs): raise OSError('no route to host')
    monkeypatch.setattr(models, 'get_model', offline)
    with pytest.raises(ConnectionError, match='no route to host'):
        recipe_model(preset('article', 'pretrained'), shapes16, VOCAB)


@pytest.mark.parametrize('augment', AUGMENT)
def test_loaders_for_every_augmentation(shapes16, augment):
    recipe = small(augment=augment)
    dls = recipe_loaders(shapes16[:9], shapes16[9:], VOCAB, recipe)
    images, boxes, labels = next(iter(dls.train))
    assert images.shape == (4, 3, 64, 64) and (labels > 0).any()
    assert len(dls.train) == 2 and len(dls.valid) == 2
    assert type(dls.valid.dataset.transform) is ResizeTransform
    again = next(iter(recipe_loaders(shapes16[:9], shapes16[9:], VOCAB, recipe).train))
    assert all(torch.equal(a, b) for a, b in zip((images, boxes, labels), again))


def test_few_images_stay_in_memory_and_many_do_not(shapes16):
    assert recipe_loaders(shapes16, shapes16, VOCAB, small()).train.dataset.cache is not None
    many = small(size=4608)     # 16 + 16 images of 64 megabytes
    dls = recipe_loaders(shapes16, shapes16, VOCAB, many)
    assert dls.train.dataset.cache is None and dls.valid.dataset.cache is None


@pytest.mark.parametrize('model', HEADS)
def test_the_seed_repeats_the_losses(shapes16, model):
    losses = []
    for seed in (1, 1, 2):
        recipe = small(model, seed=seed)
        learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
        losses.append(fit(learn, recipe)[-1]['valid_loss'])
    assert losses[2] != losses[0]
    # a GPU may add in another order
    assert losses[0] == losses[1]


@pytest.mark.parametrize('model', HEADS)
def test_the_seed_chooses_the_first_weights(shapes16, model):
    weights = []
    for seed in (1, 1, 2):
        recipe = small(model, seed=seed)
        learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
        weights.append(next(learn.model.parameters()).detach().cpu())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_metrics_get_the_anchors_and_the_rest_goes_to_the_learner(shapes16, tmp_path):
    given = []

    def metrics(anchors):
        def objects(preds, boxes, labels): return (labels > 0).sum() / len(labels)
        given.append(anchors)
        return [AvgMetric(objects)]

    recipe = small('article')
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe, tmp_path/'h.csv', metrics,
                           path=tmp_path, dtype=torch.float32)
    assert given == [learn.loss_func.anchors] and learn.path == tmp_path
    assert not any(isinstance(cb, BFloat16) for cb in learn.cbs)
    assert 'objects' in fit(learn, recipe)[0] and (tmp_path/'h.csv').is_file()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_are_as_short_as_the_device_can(shapes16, monkeypatch, dtype):
    monkeypatch.setattr('ssd_tutorial.recipes.fast_dtype', lambda device: dtype)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, small('article'))
    kinds = {type(cb) for cb in learn.cbs} & set(HALF.values())
    assert kinds == ({HALF[dtype]} if dtype in HALF else set())


# ---- training

class Calls:
    "In place of a learner: notes what is called, and adds the rows."
    def __init__(self):
        self.history = self
        self.rows = []
        self.broken = False
        self.calls = []

    def _fit(self, name, n, lr, start_epoch):
        self.calls.append((name, n, lr, start_epoch))
        self.rows += [{}] * (n - start_epoch)

    def fit(self, n, lr, start_epoch): self._fit('fit', n, lr, start_epoch)
    def fit_one_cycle(self, n, lr, start_epoch): self._fit('one cycle', n, lr, start_epoch)
    def freeze(self): self.calls.append('freeze')
    def unfreeze(self): self.calls.append('unfreeze')


@pytest.mark.parametrize('model, last', [('ssd', 'one cycle'), ('article', 'fit')])
def test_frozen_epochs_come_first(model, last):
    learn = Calls()
    fit_recipe(learn, small(model, frozen=2, epochs=3, lr=1e-3))
    assert learn.calls == ['freeze', ('fit', 2, 1e-3, 0), 'unfreeze', (last, 3, 1e-3, 0)]


@pytest.mark.parametrize('done, calls', [
    (1, ['freeze', ('fit', 2, 1e-3, 1), 'unfreeze', ('one cycle', 3, 1e-3, 0)]),
    (2, ['unfreeze', ('one cycle', 3, 1e-3, 0)]), (4, ['unfreeze', ('one cycle', 3, 1e-3, 2)])])
def test_epochs_that_lie_behind_are_not_trained_again(done, calls):
    learn = Calls()
    learn.rows = [{}] * done
    fit_recipe(learn, small('ssd', frozen=2, epochs=3, lr=1e-3), done)
    assert learn.calls == calls
    assert len(learn.rows) == 5


@pytest.mark.parametrize('model', HEADS)
def test_from_scratch_there_is_one_cycle(model):
    learn = Calls()
    for _ in range(2): fit_recipe(learn, small(model, epochs=3, lr=1e-3))
    assert learn.calls == [('one cycle', 3, 1e-3, 0)] * 2


@pytest.mark.parametrize('model', HEADS)
def test_the_table_goes_on_over_frozen_and_free_epochs(shapes16, model):
    recipe = small(model, frozen=1, epochs=1)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
    assert [r['epoch'] for r in fit(learn, recipe)] == [0, 1]
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.parametrize('model', list(HEADS))
def test_a_pretrained_body_keeps_early_layers_and_statistics(shapes16, monkeypatch, model):
    get = models.get_model
    # as if ImageNet's weights were there
    monkeypatch.setattr(models, 'get_model', lambda arch, weights: get(arch, weights=None))
    recipe = small(model, 'pretrained', arch='resnet18', frozen=1)
    learn = recipe_learner(shapes16[:12], shapes16[12:], VOCAB, recipe)
    before = {name: v.clone() for name, v in learn.model.state_dict().items()}
    early = {id(p) for layer in early_layers(learn.model[0]) for p in layer.parameters()}
    early = {name for name, p in learn.model.named_parameters() if id(p) in early}
    fit(learn, recipe)
    after = learn.model.state_dict()
    same = {name for name, v in after.items() if v.equal(before[name])}
    statistics = {name for name in after if name[0] == '0' and 'running' in name}
    rest = {f'0.{name}' for name, p in learn.model[0].named_parameters()} - early
    assert early and statistics and rest and not rest & same
    # the article lets go of everything
    kept = early | statistics if model != 'article' else set()
    assert same & (early | statistics) == kept


def test_a_loss_that_is_not_finite_ends_with_a_remedy(shapes16):
    recipe = small(lr=1e30, epochs=3)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
    with pytest.raises(ValueError, match=r'lr 1e\+30: .*epoch 0 .*try a lower one, such as'):
        fit(learn, recipe)


def test_a_training_that_a_callback_ends_is_no_error(shapes16):
    class Enough(Callback):
        def after_epoch(self): raise CancelFitException()

    recipe = small(epochs=3)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe, cbs=[Enough()])
    assert len(fit(learn, recipe)) < 3


def test_a_recipe_is_all_that_a_training_needs(shapes16):
    "The same by hand, from the fields alone."
    recipe = Recipe('ssd', 'resnet8', False, 64, 0, 2, 3e-3, 4, 'none', 'focal', 'offsets',
                    workers=0)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
    rows = fit(learn, recipe)
    assert len(rows) == 2 and rows[1]['valid_loss'] < rows[0]['valid_loss']


def test_numpy_s_numbers_become_plain_ones():
    "Those of a checkpoint could not be read back otherwise."
    given = dict(epochs=np.int64(3), workers=np.int64(0))
    recipe = small('ssd', lr=np.float64(1e-3), **given)
    assert type(recipe.lr) is float
    for name in given: assert type(getattr(recipe, name)) is int
    assert recipe == small('ssd', lr=1e-3, epochs=3, workers=0)
