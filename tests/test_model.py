"Grids and rows of the models, bodies by name, mixed precision."
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from makers import speak_up
from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.model import (
    FeatureMaps, SSDHead, flatten_cells, grid_sizes, has_bf16, ssd_body, ssd_model
)
from ssd_tutorial.predict import class_scores


def look_straight_ahead(model):
    "Keep only the middle of every kernel, so that an output depends on its own place alone."
    for m in model.modules():
        if isinstance(m, nn.MaxPool2d): m.kernel_size, m.padding = 1, 0
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
    x, centres = torch.rand(1, 3, 128, 128, requires_grad=True), make_anchors(zooms=zooms).cxcywh[:, :2]
    for outputs in model(x):
        assert outputs.shape[1] == len(centres) == 16 * k
        assert list(cells_seen(outputs[0], x, 4, 128)) == (centres * 4).floor().tolist()


@pytest.mark.parametrize('size, k, grids', [(64, 2, (16, 8, 4)), (100, 1, (25, 13, 7))])
def test_row_i_of_several_grids_sees_the_cell_of_anchor_i(size, k, grids):
    model = ssd_model('resnet8', 3, pretrained=False, k=k, maps=3).eval()
    look_straight_ahead(model)
    x, centres = torch.rand(1, 3, size, size, requires_grad=True), make_anchors(grids, [1.] * k).cxcywh[:, :2]
    assert grid_sizes(model, size) == grids
    for outputs in model(x):
        assert outputs.shape[1] == len(centres)
        first = 0
        for g, stride in zip(grids, (4, 8, 16)):
            rows = torch.arange(first, first + g * g * k)[::1 if g < 10 else 7]      # of the many rows of a fine grid every seventh
            assert list(cells_seen(outputs[0, rows], x, size / stride, size)) == (centres[rows] * g).floor().tolist()
            first += g * g * k


@pytest.mark.parametrize('body, grids', [('resnet8', (25, 13, 7)), *[(b, (13, 7, 4)) for b in ('resnet10', 'resnet18', 'mobilenet_v3_small')]])
def test_bodies_by_name_at_an_odd_size(body, grids):
    model = ssd_model(body, 5, pretrained=False, k=2, maps=3)
    assert grid_sizes(model, 100) == grids
    for classes, boxes in [model(torch.randn(2, 3, 100, 100)), model.eval()(torch.randn(1, 3, 100, 100))]:
        assert classes.shape == (len(boxes), len(make_anchors(grids, (1., 2.))), 5) and boxes.shape[2] == 4
        assert classes.isfinite().all() and boxes.isfinite().all()
    assert model.config == dict(arch=body, n_classes=5, k=2, maps=3)


def test_a_body_cut_into_maps_calculates_the_same():
    body = ssd_body('resnet10', pretrained=False).eval()
    x, maps = torch.randn(1, 3, 100, 100), FeatureMaps(body, 4)
    assert_close(maps(x)[-1], body(x))
    assert [m.shape[1] for m in maps(x)] == maps.widths == [64, 128, 256, 512] and [m.shape[-1] for m in maps(x)] == [25, 13, 7, 4]
    assert len(FeatureMaps(body, 1)(x)) == 1 and sum(p.numel() for p in maps.parameters()) == sum(p.numel() for p in body.parameters())


@pytest.mark.parametrize('arch, n', [('resnet8', 5), ('resnet10', 6), ('mobilenet_v3_small', 6)])
def test_more_maps_than_the_body_has(arch, n):
    with pytest.raises(ValueError, match=f'the body has maps of {n - 1} sizes, not {n}'): ssd_model(arch, 3, pretrained=False, maps=n)


@pytest.mark.parametrize('arch, widths', [
    ('mobilenet_v2', [32, 96, 1280]), ('mobilenet_v3_large', [40, 112, 960]), ('mnasnet0_5', [24, 48, 1280]), ('densenet121', [512, 1024, 1024]),
    ('shufflenet_v2_x0_5', [48, 96, 1024]), ('efficientnet_b0', [40, 112, 1280]), ('vgg11_bn', [512] * 3), ('regnet_y_400mf', [104, 208, 440])])
def test_bodies_are_cut_before_they_pool(arch, widths):
    "Some classifiers pool in a layer, others within `forward`; the last map is the body's, and all weights but the classifier's are kept."
    body = ssd_body(arch, pretrained=False).eval()
    maps, x = FeatureMaps(body, 3), torch.randn(1, 3, 64, 64)
    with torch.no_grad(): assert_close(maps.eval()(x)[-1], body(x))
    assert maps.widths == widths and [m.shape[1:] for m in maps(x)] == [(w, g, g) for w, g in zip(widths, (8, 4, 2))]
    assert not any(isinstance(m, nn.Linear) for m in body.modules())


@pytest.mark.parametrize('arch', ['vit_b_32', 'maxvit_t'])
def test_a_model_without_maps_is_named(arch):
    with pytest.raises(ValueError, match=f'{arch} gives no map of features.*such as resnet34'): ssd_body(arch, pretrained=False)


def test_names_that_are_no_body():
    with pytest.raises(ValueError, match="unknown arch 'resnet43'.*resnet34"): ssd_body('resnet43', pretrained=False)
    for small in ('resnet8', 'resnet10'):
        with pytest.raises(ValueError, match=f'{small} has no ImageNet weights'): ssd_body(small)


def test_flatten_cells_puts_x_slowest_and_the_anchors_of_a_cell_together():
    b, k, n, h, w = 2, 3, 5, 4, 6
    x = torch.arange(b * k * n * h * w).view(b, k * n, h, w)
    want = [[[x[i, a * n + j, row, col].item() for j in range(n)] for col in range(w) for row in range(h) for a in range(k)]
            for i in range(b)]
    assert flatten_cells(x, k).tolist() == want


def test_the_heads_first_say_nothing():
    classes, acts = SSDHead(21, 2, nin=32).eval()(torch.randn(2, 32, 7, 7))
    assert classes.shape == (2, 32, 21) and acts.shape == (2, 32, 4) and (classes + 3).abs().max() < 1.5
    several, _ = ssd_model('resnet8', 21, pretrained=False, k=2, maps=2).eval()(torch.randn(2, 3, 64, 64))
    assert several.shape == (2, 2 * (8 * 8 + 4 * 4), 21) and (several + 4).abs().max() < 1.5
    for c in (classes, several): assert class_scores(c, .5)[0].max() == 0


@pytest.mark.parametrize('arch, maps, sizes', [('resnet8', 0, {64: (2,), 128: (4,), 224: (7,)}), ('resnet10', 2, {64: (4, 2), 100: (7, 4)})])
def test_grid_sizes_leave_the_model_as_it_was(arch, maps, sizes):
    model = ssd_model(arch, 3, pretrained=False, k=2, maps=maps)
    before = [p.clone() for p in model.state_dict().values()]
    assert {s: grid_sizes(model, s) for s in sizes} == sizes and model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values()))
    assert grid_sizes(model.eval(), 64) == sizes[64] and not model.training


@pytest.mark.parametrize('arch, maps', [('resnet8', 0), ('resnet10', 3)])
def test_mixed_precision_changes_the_answers_a_little(arch, maps):
    "On any CPU; `has_bf16` only says whether it is worth it."
    model, x = ssd_model(arch, 4, pretrained=False, maps=maps).eval(), torch.randn(1, 3, 64, 64)
    speak_up(model, 50)
    with torch.no_grad():
        exact = model(x)
        model.bf16 = True
        rough = model(x)
        assert model.state_dict().keys() == ssd_model(arch, 4, pretrained=False, maps=maps).state_dict().keys()
    for e, r in zip(exact, rough):
        assert r.dtype == torch.float32 and not torch.equal(e, r) and (r - e).abs().max() < .05 * e.std() + .05 * e.abs().max()
    assert isinstance(has_bf16(), bool) and has_bf16('cpu') == has_bf16(torch.device('cpu'))
