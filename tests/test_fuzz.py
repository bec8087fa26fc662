"""Thousands of damaged files and random numbers: an answer that makes sense, or a clear error.

Some cases here, FUZZ=10000 of each by `make fuzz`, which notes what was run in docs/fuzz.json.
"""
import functools
import io
import json
import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from makers import make_coco, make_voc, noise, speak_up, voc_object
from ssd_tutorial.anchors import SSDCoder, TanhCoder, make_anchors
from ssd_tutorial.augment import (
    FlipTransform, ResizeTransform, photo_transform, train_transform
)
from ssd_tutorial.check import check_dataset
from ssd_tutorial.data import Vocab, keep_visible
from ssd_tutorial.loss import (
    FocalLoss, GIoULoss, HardNegativeLoss, MultiBoxLoss, OffsetLoss, SSDLoss, VarifocalLoss
)
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.predict import Detector
from ssd_tutorial.readers import image_size, load_image, read_coco, read_voc, read_yolo

CASES = int(os.environ.get('FUZZ', 40))
NOTES = Path(__file__).parents[1]/'docs'/'fuzz.json'
pytestmark = pytest.mark.filterwarnings('ignore')
# a case that takes longer than ten seconds counts as hanging
fuzz = settings(max_examples=CASES, deadline=timedelta(seconds=10), database=None,
                suppress_health_check=list(HealthCheck))


tried = []


def counted(run):
    "Count the cases that are tried."
    @functools.wraps(run)
    def case(*args, **kwargs):
        tried.append(1)
        run(*args, **kwargs)
    return case


@pytest.fixture(autouse=True)
def noted(request):
    "With FUZZ: how many cases were tried, and whether one failed."
    tried.clear()
    start = time.time()
    before = request.session.testsfailed
    yield
    if 'FUZZ' not in os.environ: return
    note = dict(what=request.function.__doc__, cases=len(tried),
                failed=request.session.testsfailed - before,
                seconds=round(time.time() - start, 1))
    # several processes may test at once
    with FileLock(NOTES.with_suffix('.lock')):
        notes = json.loads(NOTES.read_text()) if NOTES.is_file() else {}
        notes[request.node.name.removeprefix('test_')] = note
        NOTES.write_text(json.dumps(notes, indent=1, sort_keys=True) + '\n')


@st.composite
def damaged(draw, content):
    "Bytes of a file with some of them changed, cut, doubled or put in."
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        to = min(len(content), at + draw(st.integers(1, 40)))
        kind = draw(st.sampled_from(['change', 'cut', 'double', 'insert', 'end']))
        n = to - at
        if kind == 'change': content[at:to] = draw(st.binary(min_size=n, max_size=n))
        if kind == 'cut': del content[at:to]
        if kind == 'double': content[at:at] = content[at:to]
        if kind == 'insert': content[at:at] = draw(st.binary(max_size=20))
        if kind == 'end': del content[at:]
    return bytes(content)


def makes_sense(samples):
    "What a reader may give: boxes inside their images, names that can be shown."
    for s in samples:
        w, h = image_size(s.path)
        assert len(s.boxes) == len(s.labels) == len(s.difficult)
        assert np.isfinite(s.boxes).all() and (s.boxes[:, 2:] > s.boxes[:, :2]).all()
        assert (s.boxes >= 0).all() and (s.boxes <= [w, h, w, h]).all()
        assert all(isinstance(l, str) and l.strip() and l != 'bg' for l in s.labels)


def read_or_refuse(read, *args):
    "The reader, strict and lenient, and the doctor: samples that make sense, or a clear error."
    for options in ({}, dict(drop_bad=True)):
        try: makes_sense(read(*args, **options))
        except (FileNotFoundError, ValueError) as e: assert str(e)
    try: makes_sense(check_dataset(Path(args[0]).parent).folder.samples)
    except (FileNotFoundError, ValueError) as e: assert str(e)


def change_bytes(file, read, *args):
    "Read a file whose bytes are changed in every way; it stays as it was."
    content = file.read_bytes()

    @fuzz
    @given(damaged(content))
    @counted
    def run(changed):
        file.write_bytes(changed)
        read_or_refuse(read, *args)

    try: run()
    finally: file.write_bytes(content)


# ---- readers

def voc_set(root):
    "A folder of two images with two objects each; one of its XML files."
    two = [voc_object(), voc_object('dog', (8, 9, 40, 30))]
    make_voc(root, ['a', 'b'], dict(train=['a', 'b']), two)
    return root/'Annotations'/'a.xml'


@pytest.fixture(scope='module')
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp('voc')/'set'
    voc_set(root)
    return root


def test_bytes_of_xml(voc):
    "Pascal VOC: bytes of an XML file changed, cut, doubled, put in"
    change_bytes(voc/'Annotations'/'a.xml', read_voc, voc)


TEXTS = st.one_of(st.text(max_size=12), st.integers().map(str), st.floats().map(str),
                  st.sampled_from(['', ' ', 'bg', '1e309', 'nan', '-1', '٣', '1_0', '0x1']))
CORNERS = 'xmin', 'ymin', 'xmax', 'ymax'
TAGS = st.sampled_from(['annotation', 'object', 'name', 'bndbox', 'filename', 'size', 'width',
                        'height', 'difficult', 'part', *CORNERS])


def element(children):
    def write(tag, inside): return f'<{tag}>{"".join(inside)}</{tag}>'
    return st.builds(write, TAGS, st.lists(children, max_size=6))


def escaped(text):
    kept = ''.join(c for c in text if c.isprintable())
    return kept.replace('&', '&amp;').replace('<', '&lt;')


TREES = st.recursive(TEXTS.map(escaped), element, max_leaves=20)
NUMBERS = st.lists(TEXTS.map(escaped), min_size=4, max_size=4)


def test_structure_of_xml(voc):
    "Pascal VOC: trees of its tags in any order, with any texts"
    file = voc/'Annotations'/'a.xml'
    content = file.read_bytes()

    @fuzz
    @given(st.lists(TREES, max_size=4), TEXTS.map(escaped), NUMBERS)
    @counted
    def run(trees, name, numbers):
        box = ''.join(f'<{t}>{v}</{t}>' for t, v in zip(CORNERS, numbers))
        known = f'<object><name>{name}</name><bndbox>{box}</bndbox></object>'
        text = f'<annotation><filename>a.jpg</filename>{known}{"".join(trees)}</annotation>'
        file.write_text(text, encoding='utf-8')
        read_or_refuse(read_voc, voc)

    try: run()
    finally: file.write_bytes(content)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('coco')/'set'/'train.json', n=3)


def test_bytes_of_json(coco):
    "COCO: bytes of a JSON file changed, cut, doubled, put in"
    change_bytes(coco, read_coco, coco)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
              st.sampled_from(['bg', '../a.jpg', '/etc/passwd', '0.jpg', 'cat', 10, 1])),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(
        st.sampled_from(['id', 'file_name', 'bbox', 'name', 'image_id', 'category_id', 'x']),
        inner, max_size=5)), max_leaves=8)


def places(value, path=()):
    "Every place in a JSON value."
    yield path
    inside = dict(enumerate(value)) if isinstance(value, list) else value
    if isinstance(inside, dict):
        for key, inner in inside.items(): yield from places(inner, (*path, key))


def test_structure_of_json(coco):
    "COCO: any value in the place of any other"
    content = coco.read_text()
    every = [p for p in places(json.loads(content)) if p]

    @fuzz
    @given(st.lists(st.tuples(st.sampled_from(every), VALUES), min_size=1, max_size=3))
    @counted
    def run(changes):
        whole = json.loads(content)
        for path, value in changes:
            inside = whole
            try:
                for key in path[:-1]: inside = inside[key]
                inside[path[-1]] = value
            # an earlier change has taken the place away
            except (TypeError, IndexError, KeyError): continue
        coco.write_text(json.dumps(whole))
        read_or_refuse(read_coco, coco)

    try: run()
    finally: coco.write_text(content)


def yolo_set(root):
    "A folder of one image with boxes and a polygon; its text file."
    noise(root/'a.png')
    (root/'classes.txt').write_text('cat\ndog\n')
    rows = b'0 0.5 0.5 0.2 0.3\n1 0.25 0.75 0.1 0.1\n1 0.1 0.1 0.2 0.1 0.2 0.3\n'
    (root/'a.txt').write_bytes(rows)
    return root/'a.txt'


def test_bytes_of_yolo_rows(tmp_path):
    "YOLO: bytes of a text file changed, cut, doubled, put in"
    change_bytes(yolo_set(tmp_path/'set'), read_yolo, tmp_path/'set')


# ---- images and detectors

def look_or_refuse(file):
    "The size of an image, and the image: one that has pixels, or a clear error."
    for look in (image_size, load_image):
        try: size = look(file)
        except (FileNotFoundError, ValueError) as e: assert str(file) in str(e)
        else: assert min(getattr(size, 'size', size)) > 0


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'BMP', 'TIFF', 'WEBP'])
def test_bytes_of_images(tmp_path, kind):
    "Images of six formats: bytes changed, cut, doubled, put in"
    file = tmp_path/'x.jpg'
    stored = io.BytesIO()
    Image.open(noise(tmp_path/'y.png', (40, 30))).save(stored, kind)

    @settings(fuzz, max_examples=max(10, CASES // 6))
    @given(damaged(stored.getvalue()))
    @counted
    def run(changed):
        file.write_bytes(changed)
        look_or_refuse(file)

    run()


def test_bytes_of_a_detector(tmp_path):
    "Files of detectors: bytes changed, cut, doubled, put in"
    torch.manual_seed(0)
    model = speak_up(ssd_model('resnet8', 3, pretrained=False, maps=1))
    for p in model.parameters():
        # small, so that a case takes milliseconds; what is damaged is the file
        p.data = p.data.half().float()
    anchors = make_anchors(grid_sizes(model, 64), coder=SSDCoder())
    file = Detector(model, anchors, Vocab(['cat', 'dog']), 64).save(tmp_path/'d.pt')
    content = file.read_bytes()

    def parts(detector):
        "All that a detector knows; what it finds may differ in the last digit from run to run."
        anchors = detector.anchors
        tensors = [*detector.model.state_dict().values(), anchors.cxcywh, anchors.cell]
        return tensors, (detector.vocab.names, detector.size, anchors.coder)

    tensors, facts = parts(Detector.load(file))
    # near both ends lie the parts that say what the rest is
    ends = st.one_of(st.integers(0, 3000), st.integers(len(content) - 6000, len(content)),
                     st.integers(0, len(content)))

    @fuzz
    @given(ends, st.binary(min_size=1, max_size=12), st.booleans())
    @counted
    def run(at, new, cut):
        changed = content[:at] + (b'' if cut else new + content[at + len(new):])
        file.write_bytes(changed)
        try: found, said = parts(Detector.load(file))
        except (FileNotFoundError, ValueError) as e: assert str(file) in str(e)
        # what loads is what was saved
        else: assert said == facts and all(map(torch.equal, found, tensors))

    run()


# ---- boxes and numbers

SIDES = st.integers(1, 70)
TRANSFORMS = dict(resize=ResizeTransform, flip=FlipTransform, photo=photo_transform,
                  article=train_transform)


@pytest.mark.parametrize('name', TRANSFORMS)
def test_boxes_through_augmentation(name):
    "Images of any size with boxes at any place, through every augmentation"
    transform = TRANSFORMS[name](32)

    @settings(fuzz, max_examples=max(10, CASES // 4))
    @given(SIDES, SIDES, st.integers(0, 5), st.integers(0, 2**32 - 1))
    @counted
    def run(w, h, n, seed):
        rng = np.random.default_rng(seed)
        ends = np.sort(rng.uniform(0, 1, (n, 2, 2)), axis=1)
        boxes = (ends.reshape(n, 4) * [w, h, w, h]).astype(np.float32)
        labels = rng.integers(1, 9, n)
        image = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        image, boxes, labels = transform(image, boxes, labels)
        assert np.asarray(image).shape == (32, 32, 3) and len(boxes) == len(labels)
        # as every data set does: what leaves the image is cut off
        boxes = torch.as_tensor(np.reshape(boxes, (-1, 4)))
        boxes, labels = keep_visible(boxes, torch.as_tensor(labels), 32, 32)
        assert len(boxes) == len(labels) and boxes.isfinite().all()
        assert (boxes >= 0).all() and (boxes <= 32).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()

    run()


def losses():
    grids = dict(grids=(4, 2), zooms=(.8, 1.3))
    many = make_anchors(**grids, coder=SSDCoder())
    few = make_anchors(**grids, coder=TanhCoder())
    for kind in (FocalLoss, HardNegativeLoss, VarifocalLoss):
        yield kind.__name__, SSDLoss(few, 4, kind())
        for box in (OffsetLoss, GIoULoss):
            name = f'{kind.__name__}-{box.__name__}'
            yield name, MultiBoxLoss(many, 4, kind(), box_loss=box())


LOSSES = dict(losses())


@pytest.mark.parametrize('name', LOSSES)
def test_batches_through_the_loss(name):
    "Random batches through every loss: finite values and gradients"
    loss = LOSSES[name]
    n = len(loss.anchors)

    @settings(fuzz, max_examples=max(10, CASES // len(LOSSES)))
    @given(st.integers(1, 4), st.integers(1, 6), st.sampled_from([.1, 1., 10., 100.]),
           st.integers(0, 2**32 - 1))
    @counted
    def run(b, m, scale, seed):
        generator = torch.Generator().manual_seed(seed)

        def random(*shape): return torch.rand(*shape, generator=generator)

        classes = ((random(b, n, 4) - .5) * scale).requires_grad_()
        acts = ((random(b, n, 4) - .5) * scale).requires_grad_()
        ends = random(b, m, 2, 2).sort(2).values.reshape(b, m, 4)
        labels = (random(b, m) * 4).long()
        boxes = ends * (labels > 0)[..., None]
        value = loss((classes, acts), boxes, labels)
        value.backward()
        assert value.isfinite() and value >= 0
        assert classes.grad.isfinite().all() and acts.grad.isfinite().all()

    run()
