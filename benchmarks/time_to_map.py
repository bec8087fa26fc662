"""COCO mAP and mAP50 after the same number of seconds of training from scratch: ours,
torchvision's ssdlite320, ultralytics' YOLOv8n.

    python benchmarks/time_to_map.py       # embedded shapes: 1000 to train, 200 to validate
    python benchmarks/time_to_map.py --data nbs/tutorials/data/bccd --seconds 280
                                           # a Pascal VOC tree: trainval and test

Ours has the settings of `ssd_train`; how many epochs fit into the time is found with a
throwaway model. ssdlite reads the same loader and has AdamW, one cycle, and the faster of bf16
and float32. YOLO keeps its recipe, with a `time` limit and its images in memory, but runs
twice: with an optimiser step every 64 images, its default, and every 16, better in so short a
time. It runs where ultralytics is installed, which is never a dependency, for its licence is
AGPL. Nobody evaluates while training. One scorer, the library's, judges what all of them find
in the same images; the peers keep their own thresholds, which are lower than ours. One after
the other, in one process.
"""
import argparse
import importlib.util
import math
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from common import (end_workers, learner, machine, precision, shapes, ssdlite, table, trained,
                    trained_peer, uses_bf16)

from ssd_tutorial.boxes import xyxy_to_cxcywh
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import score_detections
from ssd_tutorial.predict import Detections
from ssd_tutorial.readers import image_size, read_voc


def epochs_in(learn, recipe, seconds):
    "How many epochs fit into the time."
    for _ in range(2):      # the first epoch fills the memory and warms up
        start = time.perf_counter()
        with learn.no_bar(), learn.no_logging(): learn.fit(1, recipe.lr)
    took = time.perf_counter() - start
    end_workers(learn)
    return max(1, math.floor(seconds / took))


def ours(train, valid, vocab, args, dtype=None, epochs=None):
    "`ssd_train`'s model and settings, with as many epochs as fit into the time."
    make = partial(learner, train, model=args.model, workers=args.workers, seed=args.seed,
                   dtype=dtype, **args.kind)
    if epochs is None: epochs = epochs_in(*make(), args.seconds)
    learn, recipe = make(epochs=epochs)
    seconds, report = trained(learn, recipe, valid)
    name = f"ours, {args.model}, {recipe.arch}, {precision(uses_bf16(learn))}"
    return name, seconds, epochs, report


def lite(train, valid, vocab, args):
    "torchvision's ssdlite320 at our size, fed by our loader."
    learn, recipe = learner(train, workers=args.workers, seed=args.seed, bs=16, **args.kind)
    net = ssdlite(len(vocab), recipe.size)
    parts = trained_peer(net, learn, recipe.size, valid, args.seconds, args.lr)
    seconds, epochs, chosen, report = parts
    return f"torchvision ssdlite320, {chosen}", seconds, epochs, report


def yolo_lines(sample, vocab):
    "One line per object: class, centre and size in [0,1]."
    size = torch.tensor([*image_size(sample.path)] * 2)
    boxes = xyxy_to_cxcywh(torch.as_tensor(sample.boxes) / size).tolist()
    return "".join(f"{vocab.index(l) - 1} {x} {y} {w} {h}\n"
                   for l, (x, y, w, h) in zip(sample.labels, boxes))


def write_yolo(folder, samples, vocab):
    "Images, and a text file for each."
    for part in ("images", "labels"): (folder/part).mkdir(parents=True)
    for i, s in enumerate(samples):
        shutil.copy(s.path, folder/"images"/f"{i:06d}{s.path.suffix}")
        (folder/"labels"/f"{i:06d}.txt").write_text(yolo_lines(s, vocab))


def write_yolo_data(tmp, train, valid, vocab):
    for name, samples in dict(train=train, valid=valid).items():
        if not (tmp/name).exists(): write_yolo(tmp/name, samples, vocab)
    (tmp/"data.yaml").write_text(f"path: {tmp}\ntrain: train/images\nval: valid/images\n"
                                 f"names: {vocab.names[1:]}\n")


def yolo_detections(model, valid, size, vocab):
    for s in valid:
        r = model.predict(s.path, imgsz=size, conf=.001, verbose=False)[0].boxes.cpu()
        names = [vocab[int(c) + 1] for c in r.cls]
        yield Detections(r.xyxy.numpy(), names, r.conf.numpy(), None)


def yolo(train, valid, vocab, args, nbs=64):
    "ultralytics' YOLOv8n without weights or network; the optimiser steps every `nbs` images."
    tmp = args.tmp
    threads = torch.get_num_threads()
    size = 224 if args.data else 128
    os.environ.update(YOLO_OFFLINE="True", YOLO_CONFIG_DIR=str(tmp),
                      YOLO_AUTOINSTALL="False", YOLO_VERBOSE="False")
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):
        def validate(self): return {}, 0.      # takes time, and chooses by the validation set
        def final_eval(self): self.seconds = time.time() - self.train_time_start

    write_yolo_data(tmp, train, valid, vocab)
    model = YOLO("yolov8n.yaml", verbose=False)
    # it would leave one core idle
    model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(threads))
    model.train(Trainer, data=str(tmp/"data.yaml"), imgsz=size, time=args.seconds / 3600,
                batch=16, nbs=nbs, pretrained=False, amp=False, workers=args.workers,
                cache="ram", flipud=.5 if args.data else 0., plots=False, val=False,
                verbose=False, project=str(tmp), seed=args.seed,
                device=0 if torch.cuda.is_available() else "cpu")
    detections = list(yolo_detections(YOLO(model.trainer.last), valid, size, vocab))
    torch.set_num_threads(threads)
    report = score_detections(detections, valid, vocab)
    name = f"ultralytics YOLOv8n, float32, a step every {nbs} images"
    return name, model.trainer.seconds, model.trainer.epoch + 1, report


def read(args):
    "Training and validation samples."
    if not args.data: return shapes(args.train or 1000, 0), shapes(args.valid or 200, 1)
    train = read_voc(args.data, "trainval", drop_bad=True)
    return train[:args.train], read_voc(args.data, "test", drop_bad=True)[:args.valid]


def chosen_peers(only):
    peers = dict(ours=ours, ssdlite=lite, yolo=yolo, yolo16=partial(yolo, nbs=16))
    if importlib.util.find_spec("ultralytics") is None:
        print("ultralytics is not installed: no YOLOv8n\n")
        peers = dict(ours=ours, ssdlite=lite)
    return {name: f for name, f in peers.items() if only in (None, name)}


def main(args):
    train, valid = read(args)
    vocab = Vocab.from_samples(train)
    args.kind = dict(situation="scratch", augment="flips") if args.data else {}
    print(f"{machine()}; {len(train)} images to train, {len(valid)} to validate, "
          f"{args.seconds:g} s of training, seed {args.seed}\n", flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        args.tmp = Path(tmp)
        peers = chosen_peers(args.only)
        runs = [f(train, valid, vocab, args) for f in peers.values()]
        if args.float32 and "ours" in peers:
            runs.append(ours(train, valid, vocab, args, dtype=torch.float32, epochs=runs[0][2]))
    rows = []
    for name, seconds, epochs, report in runs:
        compared = args.only is None and report.map > 0
        ratio = f"{runs[0][3].map / report.map:.2f}" if compared else "-"
        figures = f"{report.map50:.3f}", f"{report.map:.3f}"
        rows.append((name, f"{seconds:.1f}", f"{epochs:.1f}", *figures, ratio))
    table(["model", "seconds", "epochs", "mAP50", "mAP", "our mAP / its"], rows)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path,
                    help="Pascal VOC tree with the lists trainval and test (default: shapes)")
    ap.add_argument("--seconds", type=float, default=100, help="of training, for each (100)")
    ap.add_argument("--only", choices=["ours", "ssdlite", "yolo", "yolo16"],
                    help="one of them (default: all)")
    ap.add_argument("--model", default="ssd", choices=["ssd", "article"], help="ours (ssd)")
    ap.add_argument("--float32", action="store_true",
                    help="ours once more, without bf16, for as many epochs")
    ap.add_argument("--lr", type=float, default=4e-3,
                    help="of ssdlite (4e-3, better than 2e-3 and 1e-3)")
    ap.add_argument("--workers", type=int, default=0, help="processes that load, for each (0)")
    ap.add_argument("--seed", type=int, default=0, help="of weights and order (0)")
    ap.add_argument("--train", type=int,
                    help="images to train on (default: 1000 shapes; all of a VOC tree)")
    ap.add_argument("--valid", type=int,
                    help="images to validate on (default: 200 shapes; all of a VOC tree)")
    main(ap.parse_args())
