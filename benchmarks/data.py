"""Images per second and core: the training pipeline from files, with Pillow's full decode, against pictures kept in memory.

    python benchmarks/data.py --data ../shared/data/bccd     # photographs, 640x480
    python benchmarks/data.py                                # JPEGs of that size that it draws

One thread, no workers, pictures of 224 pixels for the model. All rows are run in turn, round after round; medians. The second
table shows where the time goes, in milliseconds per image: `reading` is file to array, or memory to array.
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
from ssd_tutorial.readers import Sample, read_voc
from ssd_tutorial.data import ObjectDataset, Vocab
from ssd_tutorial.shapes import SHAPES, _background, _random_boxes, draw_shape

PARTS = ["reading", "resizing", "augmentation", "normalising", "collating", "the rest"]


def draw(folder, n):
    "JPEGs of 640x480: a textured background, speckle, and shapes."
    for i in range(n):
        rng = random.Random(i)
        image = _background(rng, 640, 480)
        boxes = _random_boxes(rng, 640, 480)
        names = [rng.choice(list(SHAPES)) for _ in boxes]
        for b, name in zip(boxes, names): draw_shape(image, name, b, f"hsv({rng.randrange(360)},80%,90%)")
        image.save(folder/f"{i}.jpg", quality=90)
        yield Sample(folder/f"{i}.jpg", boxes, names)


def run(ds, bs):
    "Seconds for the whole data set, in batches."
    start = time.perf_counter()
    for i in range(0, len(ds), bs): data._collate([ds[j] for j in range(i, min(i + bs, len(ds)))])
    return time.perf_counter() - start


def shares(ds, bs):
    "Milliseconds per image of each part."
    clock, n = Clock(), len(ds) / 1000
    with patch.object(ds, "_read", clock.of("reading", ds._read)), \
         patch.object(augment, "resize_sample", clock.of("resizing", augment.resize_sample)), \
         patch.object(ds.transform, "_vary", clock.of("augmentation", ds.transform._vary)), \
         patch.object(data, "image_tensor", clock.of("normalising", data.image_tensor)), \
         patch.object(data, "_collate", clock.of("collating", data._collate)):
        whole = run(ds, bs)
    clock["the rest"] = whole - sum(clock.values())
    return {k: v / n for k, v in clock.items()}


def main(args, samples):
    vocab = Vocab.from_samples(samples)
    kinds = {"the article's, with imgaug": augment.train_transform, "flips": augment.FlipTransform}
    sets = {(source, name): ObjectDataset(samples, vocab, f(args.size, 0), cache=args.size if source == "memory" else None)
            for name, f in kinds.items() for source in ("files", "memory")}
    for ds in sets.values(): run(ds, args.bs)      # fills the memory, and warms the file system's
    times = [{k: run(ds, args.bs) for k, ds in sets.items()} for _ in range(args.rounds)]
    parts = [{k: shares(ds, args.bs) for k, ds in sets.items()} for _ in range(args.rounds)]
    slow = "files", "the article's, with imgaug"
    print(f"{machine()}, OpenCV {cv2.__version__}; {len(samples)} pictures, {args.size} pixels for the model\n")
    table(["pictures from", "augmentation", "images/s and core", "ms per image", "ratio to the first"],
          [(*k, f"{len(samples) / (t := statistics.median(r[k] for r in times)):.0f}", f"{t / len(samples) * 1e3:.2f}",
            f"{statistics.median(r[slow] / r[k] for r in times):.2f}") for k in sets])
    table(["ms per image", *(f"{source}, {name}" for source, name in sets)],
          [(p, *(f"{statistics.median(r[k].get(p, 0) for r in parts):.2f}" for k in sets)) for p in PARTS])


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path, help="Pascal VOC tree with JPEGs (default: drawn)")
    ap.add_argument("-n", type=int, default=64, help="pictures (64)")
    ap.add_argument("--size", type=int, default=224, help="side of the pictures for the model (224)")
    ap.add_argument("--bs", type=int, default=16, help="pictures per batch (16)")
    ap.add_argument("--rounds", type=int, default=10, help="rounds (10)")
    args = ap.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)      # imgaug calls OpenCV, which would take all cores
    with tempfile.TemporaryDirectory() as tmp:
        main(args, (read_voc(args.data, None, drop_bad=True) if args.data else list(draw(Path(tmp), args.n)))[:args.n])
