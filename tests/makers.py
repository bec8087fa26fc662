"Small pictures and annotated folders for the tests."
import json

import numpy as np
import torch
from PIL import Image

from ssd_tutorial.readers import Sample

RED, GREEN, BLUE = (220, 30, 30), (30, 220, 30), (30, 30, 220)


def picture(path, size=(64, 48), color=(120, 130, 140), mode='RGB', **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, color).convert(mode).save(path, **save)
    return path


def noise(path, size=(64, 48), seed=0):
    "A picture that no other seed has, without loss."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-len(path.read_bytes()) // 2])
    return path


def samples(folder, n=6, size=(64, 48), objects=lambda i: 1):
    "`n` pictures of noise, picture i with `objects(i)` objects of the classes a, b, c in turn."
    boxes = [[4 + k, 4 + k, 40 + k, 30 + k] for k in range(12)]
    return [Sample(noise(folder/f'{i}.png', size, i), boxes[:objects(i)], ['abc'[(i + k) % 3] for k in range(objects(i))])
            for i in range(n)]


def voc_object(name='cat', box=(5, 5, 30, 30), bndbox=None, extra='<pose>Left</pose><difficult>0</difficult>'):
    if bndbox is None: bndbox = ''.join(f'<{t}>{v}</{t}>' for t, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
    return f'<object><name>{name}</name>{extra}<bndbox>{bndbox}</bndbox></object>'


def voc_xml(filename, *objects): return f'<annotation><filename>{filename}</filename>{"".join(objects)}</annotation>'


def make_voc(root, stems=('000001', '000002', '000003', '000004'), lists=None, objects=None, size=(64, 48)):
    "A Pascal VOC tree with one year; `lists` are the files of ImageSets/Main."
    objects = [voc_object()] if objects is None else objects
    if lists is None: lists = dict(train=stems[:-2], val=stems[-2:])
    for d in ('Annotations', 'JPEGImages', 'ImageSets/Main'): (root/d).mkdir(parents=True, exist_ok=True)
    for s in stems:
        picture(root/'JPEGImages'/f'{s}.jpg', size)
        (root/'Annotations'/f'{s}.xml').write_text(voc_xml(f'{s}.jpg', *objects))
    for name, listed in lists.items(): (root/'ImageSets'/'Main'/f'{name}.txt').write_text(''.join(f'{s}\n' for s in listed))
    return root


def coco_dict(n=3, size=(64, 48), box=(4, 5, 20, 25)):
    return dict(images=[dict(id=10 + i, file_name=f'{i}.jpg', width=size[0], height=size[1]) for i in range(n)],
                annotations=[dict(id=100 + i, image_id=10 + i, category_id=1 + i % 2, bbox=list(box)) for i in range(n)],
                categories=[dict(id=1, name='cat'), dict(id=2, name='dog')])


def make_coco(file, images=None, n=3, coco=None, size=(64, 48)):
    "A COCO file with its images in the folder `images`, beside the file by default."
    coco = coco or coco_dict(n, size)
    for im in coco['images']: picture((images or file.parent)/im['file_name'], (im['width'], im['height']))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(coco))
    return file


def random_batch(counts, n_anchors, n_classes, seed, m=None):
    "Activations, boxes and labels of a batch; image i has `counts[i]` objects, zero-padded to the fullest, or to `m`."
    g = torch.Generator().manual_seed(seed)
    m = max(counts, default=0) if m is None else m
    boxes, labels = torch.zeros(len(counts), m, 4), torch.zeros(len(counts), m, dtype=torch.int64)
    for i, n in enumerate(counts):
        corner, size = torch.rand(n, 2, generator=g) * .6, torch.rand(n, 2, generator=g) * .38 + .02
        boxes[i, :n], labels[i, :n] = torch.cat([corner, corner + size], 1), torch.randint(1, n_classes, (n,), generator=g)
    classes, acts = (torch.randn(len(counts), n_anchors, k, generator=g) * 2 for k in (n_classes, 4))
    return (classes, acts), boxes, labels


def speak_up(model, factor=20):
    "Give an untrained model an opinion: no leaning towards background, and answers that differ."
    for outs in (model[1].classes, model[1].boxes):
        for out in outs.modules():
            if isinstance(out, torch.nn.Conv2d): out.weight.data.mul_(factor); out.bias.data.zero_()
    return model
