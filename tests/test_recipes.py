import dataclasses

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import AvgMetric
from torchvision import models

from makers import coco_dict, make_coco, make_voc, picture
from ssd_tutorial.augment import ResizeTransform
from ssd_tutorial.data import Vocab
from ssd_tutorial.loss import MultiBoxLoss, SSDLoss
from ssd_tutorial.recipes import (
    AUGMENT, HEADS, PRESETS, Recipe, fit_recipe, preset, read_folder, recipe_learner,
    recipe_loaders, recipe_model
)
from ssd_tutorial.shapes import SHAPES
from ssd_tutorial.train import BFloat16

VOCAB = Vocab(SHAPES)
SITUATIONS = [(model, situation) for model in PRESETS for situation in PRESETS[model]]
SMALL = dict(arch='resnet8', size=64, epochs=1, bs=4, workers=0)
COCO_LAYOUTS = [
    (('train.json', 'train'), ('valid.json', 'valid')),
    (('annotations/instances_train2017.json', 'train2017'),
     ('annotations/instances_val2017.json', 'val2017')),
    (('train/_annotations.coco.json', 'train'), ('valid/_annotations.coco.json', 'valid'))]


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


# ---- which pictures are for training

def names(part): return sorted(s.path.stem for s in part)


def sizes(root, **kwargs):
    train, valid = read_folder(root, **kwargs)
    return len(train), len(valid)


def test_voc_lists_decide(tmp_path):
    voc = make_voc(tmp_path/'VOC2007', [f'{i:03d}' for i in range(8)])
    first = [f'{i:03d}' for i in range(6)]
    assert [names(p) for p in read_folder(voc)] == [first, ['006', '007']]
    (voc/'ImageSets'/'Main'/'val.txt').unlink()
    train, valid = read_folder(voc)
    assert (len(train), len(valid)) == (5, 1) and names(train + valid) == first


def test_voc_without_lists_is_split(tmp_path):
    root = make_voc(tmp_path, [f'{i:02d}' for i in range(10)], {})
    train, valid = read_folder(root)
    assert (len(train), len(valid)) == (8, 2)
    assert names(train + valid) == [f'{i:02d}' for i in range(10)]
    others = [names(read_folder(root, seed=seed)[1]) for seed in (1, 2)]
    assert others[0] != names(valid) or others[1] != names(valid)
    assert names(read_folder(root, seed=1)[1]) == others[0]


@pytest.mark.parametrize('layout', COCO_LAYOUTS)
@pytest.mark.parametrize('place', ['validation of trains', 'val', 'train'])
def test_coco_layouts(tmp_path, layout, place):
    "The name of the folder itself does not count."
    root = tmp_path/place
    for (file, images), n in zip(layout, (5, 3)): make_coco(root/file, root/images, n)
    train, valid = read_folder(root)
    assert (len(train), len(valid)) == (5, 3)
    assert [s[0].path.parent.name for s in (train, valid)] == [part[1] for part in layout]


def test_one_coco_file_is_split(tmp_path):
    make_coco(tmp_path/'annotations.json', tmp_path/'images', 10)
    assert sizes(tmp_path) == (8, 2)


def test_a_file_of_training_and_validation_is_split(tmp_path):
    make_coco(tmp_path/'trainval.json', tmp_path/'images', 10)
    assert sizes(tmp_path) == (8, 2)


def test_captions_and_body_joints_are_not_boxes(tmp_path):
    "Whatever their place in the alphabet."
    for part, n in dict(train=5, val=3).items():
        make_coco(tmp_path/'annotations'/f'zoo_{part}.json', tmp_path/'images', n)
    for kind in ('captions', 'person_keypoints'):
        for part in ('train', 'val'):
            (tmp_path/'annotations'/f'{kind}_{part}2017.json').write_text('{}')
    assert sizes(tmp_path) == (5, 3)


def test_faulty_objects_are_left_out_on_demand(tmp_path):
    coco = coco_dict(10)
    coco['annotations'][0]['bbox'] = [5, 5, -3, 4]
    make_coco(tmp_path/'all.json', tmp_path/'images', coco=coco)
    with pytest.raises(ValueError, match='all.json'): read_folder(tmp_path)
    assert sum(sizes(tmp_path, drop_bad=True)) == 10
    train, valid = read_folder(tmp_path, drop_bad=True)
    assert sum(len(s.labels) for s in train + valid) == 9


@pytest.mark.parametrize('content, piece', [
    ('empty', 'found nothing'), ('pictures', "found ['1.jpg']"), ('json', 'not a COCO file'),
    ('one', 'valid_pct')])
def test_folders_without_annotations_are_refused(tmp_path, content, piece):
    if content == 'pictures': picture(tmp_path/'1.jpg')
    if content == 'json': (tmp_path/'notes.json').write_text('{}')
    if content == 'one': make_coco(tmp_path/'train.json', n=1)
    with pytest.raises(ValueError) as e: read_folder(tmp_path)
    assert piece in str(e.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
        read_folder(tmp_path/'nowhere')


# ---- model, loaders, learner

def test_the_model_and_its_anchors_fit(shapes16):
    model, loss = recipe_model(small('ssd'), shapes16, VOCAB)
    assert type(loss) is MultiBoxLoss and len(loss.anchors) == 6 * (16**2 + 8**2 + 4**2)
    assert model.config == dict(arch='resnet8', n_classes=len(VOCAB), **HEADS['ssd'])
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
    if not torch.cuda.is_available(): assert losses[0] == losses[1]


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
                           path=tmp_path, bf16=False)
    assert given == [learn.loss_func.anchors] and learn.path == tmp_path
    assert not any(isinstance(cb, BFloat16) for cb in learn.cbs)
    assert 'objects' in fit(learn, recipe)[0] and (tmp_path/'h.csv').is_file()


@pytest.mark.parametrize('able', [False, True])
def test_bfloat16_is_for_devices_that_have_it(shapes16, monkeypatch, able):
    monkeypatch.setattr('ssd_tutorial.recipes.has_bf16', lambda device: able)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, small('article'))
    assert any(isinstance(cb, BFloat16) for cb in learn.cbs) == able


# ---- training

class Calls:
    "In place of a learner: notes what is called, and adds the rows."
    def __init__(self):
        self.history = self
        self.rows = []
        self.broken = False
        self.calls = []

    def _fit(self, name, n, lr):
        self.calls.append((name, n, lr))
        self.rows += [{}] * n

    def fit(self, n, lr): self._fit('fit', n, lr)
    def fit_one_cycle(self, n, lr): self._fit('one cycle', n, lr)
    def freeze(self): self.calls.append('freeze')
    def unfreeze(self): self.calls.append('unfreeze')


@pytest.mark.parametrize('model, last', [('ssd', 'one cycle'), ('article', 'fit')])
def test_frozen_epochs_come_first(model, last):
    learn = Calls()
    fit_recipe(learn, small(model, frozen=2, epochs=3, lr=1e-3))
    assert learn.calls == ['freeze', ('fit', 2, 1e-3), 'unfreeze', (last, 3, 1e-3)]


@pytest.mark.parametrize('model', HEADS)
def test_from_scratch_there_is_one_cycle(model):
    learn = Calls()
    for _ in range(2): fit_recipe(learn, small(model, epochs=3, lr=1e-3))
    assert learn.calls == [('one cycle', 3, 1e-3)] * 2


@pytest.mark.parametrize('model', HEADS)
def test_the_table_goes_on_over_frozen_and_free_epochs(shapes16, model):
    recipe = small(model, frozen=1, epochs=1)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
    assert [r['epoch'] for r in fit(learn, recipe)] == [0, 1]
    assert all(p.requires_grad for p in learn.model.parameters())


def test_a_loss_that_is_not_finite_ends_with_a_remedy(shapes16):
    recipe = small(lr=1e30, epochs=3)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
    with pytest.raises(ValueError, match=r'lr 1e\+30: .*epoch 0; try a lower one, such as'):
        fit(learn, recipe)


def test_a_training_that_a_callback_ends_is_no_error(shapes16):
    class Enough(Callback):
        def after_epoch(self): raise CancelFitException()

    recipe = small(epochs=3)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe, cbs=[Enough()])
    assert len(fit(learn, recipe)) < 3


def test_a_recipe_is_all_that_a_training_needs(shapes16):
    "The same by hand, from the fields alone."
    recipe = Recipe('ssd', 'resnet8', False, 64, 0, 2, 3e-3, 4, 'none', workers=0)
    learn = recipe_learner(shapes16[:8], shapes16[8:], VOCAB, recipe)
    rows = fit(learn, recipe)
    assert len(rows) == 2 and rows[1]['valid_loss'] < rows[0]['valid_loss']
