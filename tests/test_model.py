"Grids and rows of the models, bodies by name, mixed precision."
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision import models

from makers import speak_up
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.model import (
    SMALL_ARCHS, FeatureMaps, SSDHead, flatten_cells, grid_sizes, has_bf16, ssd_body, ssd_model
)
from ssd_tutorial.predict import class_scores


def look_straight_ahead(model):
    "Keep only the middle of every kernel: an output depends on its own place alone."
    for m in model.modules():
        if isinstance(m, nn.MaxPool2d):
            m.kernel_size = 1
            m.padding = 0
        if isinstance(m, nn.Conv2d):
            middle = torch.zeros_like(m.weight)
            middle[..., m.kernel_size[0] // 2, m.kernel_size[1] // 2] = 1
            m.weight.data = m.weight.data.abs() * middle


def cells_seen(outputs, x, grid, size):
    "For each row the cell (x, y) of the one pixel that has an influence."
    for row in outputs:
        g, = torch.autograd.grad(row.sum(), x, retain_graph=True)
        pixel, = g.abs().sum((0, 1)).nonzero().flip(1)
        yield (pixel * grid / size).floor().tolist()


@pytest.mark.parametrize('k, zooms', [(1, (1.,)), (3, (.7, 1., 1.3))])
def test_row_i_of_the_model_sees_the_cell_of_anchor_i(k, zooms):
    model = ssd_model('resnet8', 3, pretrained=False, k=k).eval()
    look_straight_ahead(model)
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    centres = make_anchors(zooms=zooms).cxcywh[:, :2]
    for outputs in model(x):
        assert outputs.shape[1] == len(centres) == 16 * k
        assert list(cells_seen(outputs[0], x, 4, 128)) == (centres * 4).floor().tolist()


@pytest.mark.parametrize('size, k, grids', [(64, 2, (16, 8, 4)), (100, 1, (25, 13, 7))])
def test_row_i_of_several_grids_sees_the_cell_of_anchor_i(size, k, grids):
    model = ssd_model('resnet8', 3, pretrained=False, k=k, maps=3).eval()
    look_straight_ahead(model)
    x = torch.rand(1, 3, size, size, requires_grad=True)
    centres = make_anchors(grids, [1.] * k).cxcywh[:, :2]
    assert grid_sizes(model, size) == grids
    for outputs in model(x):
        assert outputs.shape[1] == len(centres)
        first = 0
        for g, stride in zip(grids, (4, 8, 16)):
            # of the many rows of a fine grid every seventh
            rows = torch.arange(first, first + g * g * k)[::1 if g < 10 else 7]
            seen = list(cells_seen(outputs[0, rows], x, size / stride, size))
            assert seen == (centres[rows] * g).floor().tolist()
            first += g * g * k


ODD_SIZE = {'resnet8': (25, 13, 7), 'resnet10': (13, 7, 4), 'resnet18': (13, 7, 4),
            'mobilenet_v3_small': (13, 7, 4)}


@pytest.mark.parametrize('body, grids', ODD_SIZE.items())
def test_bodies_by_name_at_an_odd_size(body, grids):
    model = ssd_model(body, 5, pretrained=False, k=2, maps=3)
    assert grid_sizes(model, 100) == grids
    training = model(torch.randn(2, 3, 100, 100))
    evaluating = model.eval()(torch.randn(1, 3, 100, 100))
    for classes, boxes in (training, evaluating):
        n_anchors = len(make_anchors(grids, (1., 2.)))
        assert classes.shape == (len(boxes), n_anchors, 5) and boxes.shape[2] == 4
        assert classes.isfinite().all() and boxes.isfinite().all()
    assert model.config == dict(arch=body, n_classes=5, k=2, maps=3, neck=None, numbers=4)


def n_weights(module): return sum(p.numel() for p in module.parameters())


def test_a_body_cut_into_maps_calculates_the_same():
    body = ssd_body('resnet10', pretrained=False).eval()
    x = torch.randn(1, 3, 100, 100)
    feature_maps = FeatureMaps(body, 4)
    maps = feature_maps(x)
    assert_close(maps[-1], body(x))
    assert [m.shape[1] for m in maps] == feature_maps.widths == [64, 128, 256, 512]
    assert [m.shape[-1] for m in maps] == [25, 13, 7, 4]
    assert len(FeatureMaps(body, 1)(x)) == 1 and n_weights(feature_maps) == n_weights(body)


TOO_MANY = {'resnet8': 5, 'resnet10': 6, 'mobilenet_v3_small': 6}


@pytest.mark.parametrize('arch, n', TOO_MANY.items())
def test_more_maps_than_the_body_has(arch, n):
    with pytest.raises(ValueError, match=f'the body has maps of {n - 1} sizes, not {n}'):
        ssd_model(arch, 3, pretrained=False, maps=n)


WIDTHS = {
    'mobilenet_v2': [32, 96, 1280], 'mobilenet_v3_large': [40, 112, 960],
    'mnasnet0_5': [24, 48, 1280], 'densenet121': [512, 1024, 1024],
    'shufflenet_v2_x0_5': [48, 96, 1024], 'efficientnet_b0': [40, 112, 1280],
    'vgg11_bn': [512] * 3, 'regnet_y_400mf': [104, 208, 440]
}


@pytest.mark.parametrize('arch, widths', WIDTHS.items())
def test_bodies_are_cut_before_they_pool(arch, widths):
    """Some classifiers pool in a layer, others within `forward`; the last map is the body's,
    and all weights but the classifier's are kept."""
    body = ssd_body(arch, pretrained=False).eval()
    maps = FeatureMaps(body, 3).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(): assert_close(maps(x)[-1], body(x))
    assert maps.widths == widths
    assert [m.shape[1:] for m in maps(x)] == [(w, g, g) for w, g in zip(widths, (8, 4, 2))]
    assert not any(isinstance(m, nn.Linear) for m in body.modules())


@pytest.mark.parametrize('arch', ['vit_b_32', 'maxvit_t'])
def test_a_model_without_maps_is_named(arch):
    with pytest.raises(ValueError, match=f'{arch} gives no feature map.*such as resnet34'):
        ssd_body(arch, pretrained=False)


def test_names_that_are_no_body():
    with pytest.raises(ValueError, match="unknown arch 'resnet43'.*resnet34"):
        ssd_body('resnet43', pretrained=False)
    assert SMALL_ARCHS == ('resnet8', 'resnet10')
    for small in SMALL_ARCHS:
        with pytest.raises(ValueError, match=f'{small} has no ImageNet weights'):
            ssd_body(small)


@pytest.mark.parametrize('error', [OSError('no route'), RuntimeError('invalid hash')])
def test_weights_that_cannot_be_had(monkeypatch, error):
    def offline(name, weights):
        assert weights == 'DEFAULT'
        raise error

    monkeypatch.setattr(models, 'get_model', offline)
    with pytest.raises(ConnectionError, match=f'of resnet34 .*{error}.*pretrained=False'):
        ssd_body('resnet34')


def test_flatten_cells_puts_x_slowest_and_the_anchors_of_a_cell_together():
    k = 3    # anchors per cell
    n = 5    # numbers per anchor
    x = torch.arange(2 * k * n * 4 * 6).view(2, k * n, 4, 6)
    places = [(col, row, a) for col in range(6) for row in range(4) for a in range(k)]
    for image, rows in zip(x, flatten_cells(x, k)):
        assert len(rows) == len(places)
        for got, (col, row, a) in zip(rows, places):
            assert got.tolist() == image[a * n:(a + 1) * n, row, col].tolist()


def test_the_heads_first_find_nothing():
    classes, acts = SSDHead(21, 2, nin=32).eval()(torch.randn(2, 32, 7, 7))
    assert classes.shape == (2, 32, 21) and acts.shape == (2, 32, 4)
    assert (classes + 3).abs().max() < 1.5
    model = ssd_model('resnet8', 21, pretrained=False, k=2, maps=2).eval()
    several, _ = model(torch.randn(2, 3, 64, 64))
    assert several.shape == (2, 2 * (8 * 8 + 4 * 4), 21) and (several + 4).abs().max() < 1.5
    for c in (classes, several): assert class_scores(c, .5)[0].max() == 0


SIZES = [('resnet8', 0, {64: (2,), 128: (4,), 224: (7,)}),
         ('resnet10', 2, {64: (4, 2), 100: (7, 4)})]


@pytest.mark.parametrize('arch, maps, sizes', SIZES)
def test_grid_sizes_leave_the_model_as_it_was(arch, maps, sizes):
    model = ssd_model(arch, 3, pretrained=False, k=2, maps=maps)
    before = [p.clone() for p in model.state_dict().values()]
    assert {s: grid_sizes(model, s) for s in sizes} == sizes and model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values()))
    assert grid_sizes(model.eval(), 64) == sizes[64] and not model.training


@pytest.mark.parametrize('arch, maps', [('resnet8', 0), ('resnet10', 3)])
def test_mixed_precision_changes_the_outputs_a_little(arch, maps):
    "On any CPU; `has_bf16` only tells whether it is worth it."
    model = ssd_model(arch, 4, pretrained=False, maps=maps).eval()
    keys = model.state_dict().keys()
    x = torch.randn(1, 3, 64, 64)
    speak_up(model, 50)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast('cpu', torch.bfloat16): rough = model(x)
        after = model(x)
    assert model.state_dict().keys() == keys
    for e, r, a in zip(exact, rough, after):
        assert torch.equal(e, a) and e.dtype == torch.float32 and r.dtype == torch.bfloat16
        assert 0 < (r - e).abs().max() < .05 * e.std() + .05 * e.abs().max()


# ---- has_bf16

OLD_CPU = 'flags : fpu sse2 avx2 avx512f avx512bw avx512_vnni'


@pytest.fixture
def cpuinfo(monkeypatch):
    "Sets what /proc/cpuinfo says; an error if there is none."
    def set_text(text):
        def read_text(path):
            assert str(path) == '/proc/cpuinfo'
            if isinstance(text, Exception): raise text
            return text
        monkeypatch.setattr(Path, 'read_text', read_text)
    return set_text


CPUS = [(OLD_CPU, False), (f'{OLD_CPU} avx512_bf16 clzero\n', True),
        (f'{OLD_CPU} amx_bf16\n', True), (f'{OLD_CPU} avx512_bf16x\n', False),
        (FileNotFoundError('no /proc'), False), ('', False)]


@pytest.mark.parametrize('text, expected', CPUS)
def test_bf16_needs_the_instructions_of_the_cpu(cpuinfo, monkeypatch, text, expected):
    "AVX-512 alone is not enough; without such a file (macOS, Windows) the result is no."
    cpuinfo(text)
    assert has_bf16() is has_bf16('cpu') is has_bf16(torch.device('cpu')) is expected
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
    assert has_bf16() is False


@pytest.mark.parametrize('known', [True, False])
def test_bf16_of_other_devices(cpuinfo, monkeypatch, known):
    "For cuda PyTorch knows; for other devices the abilities of the CPU do not count."
    cpuinfo('flags : avx512_bf16')
    assert has_bf16('mps') is False and has_bf16(torch.device('mps')) is False

    def supported(including_emulation): return known and not including_emulation

    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', supported)
    assert has_bf16('cuda') is has_bf16('cuda:0') is known
