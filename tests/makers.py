"Small pictures and annotated folders for the tests."
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ssd_tutorial.readers import Sample

RED = (220, 30, 30)
GREEN = (30, 220, 30)
BLUE = (30, 30, 220)
TAGS = ('xmin', 'ymin', 'xmax', 'ymax')
EXTRA = '<pose>Left</pose><difficult>0</difficult>'


def message(error, function, *args, **kwargs):
    "What the error says that a call raises."
    with pytest.raises(error) as e: function(*args, **kwargs)
    return str(e.value)


def lenient(read, *args):
    "What a reader gives that leaves out what is faulty; it has to say so."
    with pytest.warns(UserWarning, match='left out'): return read(*args, drop_bad=True)


def picture(path, size=(64, 48), color=(120, 130, 140), mode='RGB', **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, color).convert(mode).save(path, **save)
    return path


def noise(path, size=(64, 48), seed=0):
    "A picture that no other seed has, without loss."
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def video(path, frames, fps=10):
    "A video of arrays `(H,W,3)` by PyAV, as the library itself writes it; needs the extra."
    import av
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-len(path.read_bytes()) // 2])
    return path


def samples(folder, n=6, size=(64, 48), objects=lambda i: 1):
    "`n` pictures of noise, picture i with `objects(i)` objects of the classes a, b, c in turn."
    boxes = [[4 + k, 4 + k, 40 + k, 30 + k] for k in range(12)]
    made = []
    for i in range(n):
        labels = ['abc'[(i + k) % 3] for k in range(objects(i))]
        made.append(Sample(noise(folder/f'{i}.png', size, i), boxes[:objects(i)], labels))
    return made


def voc_object(name='cat', box=(5, 5, 30, 30), bndbox=None, extra=EXTRA):
    corners = ''.join(f'<{tag}>{value}</{tag}>' for tag, value in zip(TAGS, box))
    if bndbox is None: bndbox = corners
    return f'<object><name>{name}</name>{extra}<bndbox>{bndbox}</bndbox></object>'


def voc_xml(filename, *objects):
    return f'<annotation><filename>{filename}</filename>{"".join(objects)}</annotation>'


def sized(size, *objects, name='x.png'):
    "An annotation that states the size of its image."
    width, height = size
    text = f'<size><width>{width}</width><height>{height}</height></size>'
    return voc_xml(name, text, *objects)


def make_voc(root, stems=('000001', '000002', '000003', '000004'), lists=None, objects=None,
             size=(64, 48)):
    "A Pascal VOC tree with one year; `lists` are the files of ImageSets/Main."
    objects = [voc_object()] if objects is None else objects
    if lists is None: lists = {'train': stems[:-2], 'val': stems[-2:]}
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root/folder).mkdir(parents=True, exist_ok=True)
    for s in stems:
        picture(root/'JPEGImages'/f'{s}.jpg', size)
        (root/'Annotations'/f'{s}.xml').write_text(voc_xml(f'{s}.jpg', *objects))
    for name, listed in lists.items():
        lines = ''.join(f'{s}\n' for s in listed)
        (root/'ImageSets'/'Main'/f'{name}.txt').write_text(lines)
    return root


def coco_dict(n=3, size=(64, 48), box=(4, 5, 20, 25)):
    width, height = size
    images = []
    annotations = []
    for i in range(n):
        images.append({'id': 10 + i, 'file_name': f'{i}.jpg', 'width': width, 'height': height})
        annotations.append({'id': 100 + i, 'image_id': 10 + i, 'category_id': 1 + i % 2,
                            'bbox': list(box)})
    categories = [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def make_coco(file, images=None, n=3, coco=None, size=(64, 48)):
    "A COCO file with its images in the folder `images`, beside the file by default."
    coco = coco or coco_dict(n, size)
    folder = images or file.parent
    for im in coco['images']: picture(folder/im['file_name'], (im['width'], im['height']))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(coco))
    return file


def random_batch(counts, n_anchors, n_classes, seed, m=None):
    """Activations, boxes and labels of a batch; image i has `counts[i]` objects.

    They are padded with zeros to the number of the fullest image, or to `m`.
    """
    g = torch.Generator().manual_seed(seed)
    m = max(counts, default=0) if m is None else m
    boxes = torch.zeros(len(counts), m, 4)
    labels = torch.zeros(len(counts), m, dtype=torch.int64)
    for i, n in enumerate(counts):
        corner = torch.rand(n, 2, generator=g) * .6
        size = torch.rand(n, 2, generator=g) * .38 + .02
        boxes[i, :n] = torch.cat([corner, corner + size], 1)
        labels[i, :n] = torch.randint(1, n_classes, (n,), generator=g)
    classes = torch.randn(len(counts), n_anchors, n_classes, generator=g) * 2
    acts = torch.randn(len(counts), n_anchors, 4, generator=g) * 2
    return (classes, acts), boxes, labels


def speak_up(model, factor=20):
    "Make the scores of an untrained model differ, and not lean towards background."
    for outs in (model[1].classes, model[1].boxes):
        convolutions = [m for m in outs.modules() if isinstance(m, torch.nn.Conv2d)]
        for out in convolutions:
            out.weight.data.mul_(factor)
            out.bias.data.zero_()
    return model
