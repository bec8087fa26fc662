"""Images per second and core: the training pipeline from files, with Pillow's full decode,
against images kept in memory.

    python benchmarks/data.py --data nbs/tutorials/data/bccd     # photographs, 640x480
    python benchmarks/data.py                                # JPEGs of that size that it draws

One thread, no workers, images of 224 pixels for the model. All rows are run in turn, round
after round; medians. The second table shows where the time goes, in milliseconds per image;
what is read from memory is a part of `the rest`.
"""
import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import cv2
import torch
from common import Clock, machine, table

from ssd_tutorial import augment, data
from ssd_tutorial.data import ObjectDataset, Vocab, ssd_dataloaders
from ssd_tutorial.readers import Sample, read_voc
from ssd_tutorial.shapes import SHAPES, background, draw_shape, random_boxes

PARTS = ["reading", "resizing", "augmentation", "normalising", "collating", "the rest"]


def draw(folder, n):
    "JPEGs of 640x480: a textured background, speckle, and shapes."
    for i in range(n):
        rng = random.Random(i)
        image = background(rng, 640, 480)
        boxes = random_boxes(rng, 640, 480)
        names = [rng.choice(list(SHAPES)) for _ in boxes]
        for b, name in zip(boxes, names):
            draw_shape(image, name, b, f"hsv({rng.randrange(360)},80%,90%)")
        image.save(folder/f"{i}.jpg", quality=90)
        yield Sample(folder/f"{i}.jpg", boxes, names)


def collate(ds): return ssd_dataloaders(ds, ds, num_workers=0).valid.collate_fn


def run(ds, bs, collate):
    "Seconds for the whole data set, in batches."
    start = time.perf_counter()
    for i in range(0, len(ds), bs): collate([ds[j] for j in range(i, min(i + bs, len(ds)))])
    return time.perf_counter() - start


def round_of(sets, f):
    "`f` of each data set in turn."
    return {name: f(ds) for name, ds in sets.items()}


def shares(ds, bs):
    "Milliseconds per image of each part."
    clock = Clock()
    transform = clock.of("augmentation", ds.transform)
    with patch.object(data, "load_image", clock.of("reading", data.load_image)), \
         patch.object(augment, "resize_sample", clock.of("resizing", augment.resize_sample)), \
         patch.object(ds, "transform", transform), \
         patch.object(data, "image_tensor", clock.of("normalising", data.image_tensor)):
        whole = run(ds, bs, clock.of("collating", collate(ds)))
    clock["augmentation"] -= clock["resizing"]      # which is a part of it
    clock["the rest"] = whole - sum(clock.values())
    return {k: v / len(ds) * 1e3 for k, v in clock.items()}


def datasets(args, samples):
    "A data set for each source and each augmentation."
    vocab = Vocab.from_samples(samples)
    kinds = {"the article's, with imgaug": augment.train_transform,
             "flips": augment.FlipTransform}
    caches = dict(files=None, memory=args.size)
    return {(source, name): ObjectDataset(samples, vocab, f(args.size, 0), cache=cache)
            for name, f in kinds.items() for source, cache in caches.items()}


def main(args, samples):
    sets = datasets(args, samples)
    first = next(iter(sets))
    # the first pass fills the memory, and warms the file system's
    for ds in sets.values(): run(ds, args.bs, collate(ds))
    rounds = range(args.rounds)
    times = [round_of(sets, lambda ds: run(ds, args.bs, collate(ds))) for _ in rounds]
    parts = [round_of(sets, lambda ds: shares(ds, args.bs)) for _ in rounds]
    print(f"{machine()}, OpenCV {cv2.__version__}; {len(samples)} images, "
          f"{args.size} pixels for the model\n")
    rows = []
    for k in sets:
        seconds = statistics.median(r[k] for r in times)
        ratio = statistics.median(r[first] / r[k] for r in times)
        per_image = seconds / len(samples)
        rows.append((*k, f"{1 / per_image:.0f}", f"{per_image * 1e3:.2f}", f"{ratio:.2f}"))
    table(["images from", "augmentation", "images/s and core", "ms per image",
           "ratio to the first"], rows)
    rows = []
    for p in PARTS:
        ms = []
        for k in sets: ms.append(statistics.median(r[k].get(p, 0) for r in parts))
        rows.append((p, *(f"{v:.2f}" for v in ms)))
    table(["ms per image", *(f"{source}, {name}" for source, name in sets)], rows)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path, help="Pascal VOC tree with JPEGs (default: drawn)")
    ap.add_argument("-n", type=int, default=64, help="images (64)")
    ap.add_argument("--size", type=int, default=224,
                    help="side of the images for the model (224)")
    ap.add_argument("--bs", type=int, default=16, help="images per batch (16)")
    ap.add_argument("--rounds", type=int, default=10, help="rounds (10)")
    args = ap.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)      # imgaug calls OpenCV, which would take all cores
    with tempfile.TemporaryDirectory() as tmp:
        read = (lambda: read_voc(args.data, None, drop_bad=True)) if args.data else \
               (lambda: list(draw(Path(tmp), args.n)))
        main(args, read()[:args.n])
