"""What only a GPU can show: `TEST_CUDA=1 python -m pytest tests/test_cuda.py`. Without that
variable the tests see no GPU, so that all machines compare the same numbers."""
import warnings

import pytest
import torch
from torch.testing import assert_close

from makers import random_batch
from ssd_tutorial.anchors import SSDCoder, make_anchors
from ssd_tutorial.data import Vocab
from ssd_tutorial.loss import GIoULoss, MultiBoxLoss, SSDLoss, VarifocalLoss
from ssd_tutorial.predict import Detector
from ssd_tutorial.recipes import fit_recipe, preset, recipe_learner
from ssd_tutorial.shapes import SHAPES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
VOCAB = Vocab(SHAPES)
SHORT = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])


def fitted(samples, **given):
    "A small detector, trained for a moment on the GPU."
    recipe = preset('ssd', 'shapes', epochs=3, bs=4, seed=0, workers=0)
    learn = recipe_learner(samples[:12], samples[12:], VOCAB, recipe, **given)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe)
    return learn, recipe


@pytest.mark.parametrize('make', [
    lambda: SSDLoss(make_anchors(), 5),
    lambda: MultiBoxLoss(make_anchors(coder=SSDCoder()), 5, VarifocalLoss(),
                         box_loss=GIoULoss())])
def test_no_loss_waits(make):
    preds, boxes, labels = random_batch([2, 0, 3], 16, 5, 0)
    preds = [p.cuda().requires_grad_() for p in preds]
    loss = make().to('cuda')
    batch = preds, boxes.cuda(), labels.cuda()
    loss(*batch).backward()                    # the first call may load libraries
    torch.cuda.set_sync_debug_mode('error')
    try: loss(*batch).backward()
    finally: torch.cuda.set_sync_debug_mode('default')


def test_a_step_waits_once_as_fastai_s_recorder_does(shapes16):
    learn, recipe = fitted(shapes16, dtype=torch.bfloat16)
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    finally: torch.cuda.set_sync_debug_mode('default')
    waits = [w for w in caught if 'called a synchronizing' in str(w.message)]
    # three steps, and a batch to validate, whose loss and two terms are fetched
    assert len(waits) <= 3 + 3


@SHORT
def test_short_numbers_train(shapes16, dtype):
    learn, _ = fitted(shapes16, dtype=dtype)
    losses = [row['train_loss'] for row in learn.history.rows]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
    assert next(learn.model.parameters()).is_cuda


def test_a_detector_is_loaded_onto_the_gpu_and_finds_the_same(shapes16, tmp_path):
    learn, recipe = fitted(shapes16)
    Detector(learn.model, learn.loss_func.anchors, VOCAB, recipe.size).save(tmp_path/'d.pt')
    detector = Detector.load(tmp_path/'d.pt')
    assert next(detector.model.parameters()).is_cuda
    paths = [s.path for s in shapes16]
    boxes, scores, _ = detector.raw(paths)
    same_boxes, same_scores, _ = detector.to('cpu').raw(paths)
    assert_close(boxes, same_boxes, atol=.02, rtol=0)
    assert_close(scores, same_scores, atol=.02, rtol=0)
