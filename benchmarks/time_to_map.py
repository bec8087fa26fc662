"""COCO mAP and mAP50 after the same number of seconds of training from scratch: ours, torchvision's ssdlite320, ultralytics' YOLOv8n.

    python benchmarks/time_to_map.py                                              # embedded shapes: 1000 to train, 200 to validate
    python benchmarks/time_to_map.py --data ../shared/data/bccd --seconds 280     # a Pascal VOC tree: trainval and test

Ours has the settings of `ssd_train`; how many epochs fit into the time is found with a throwaway model. ssdlite reads the same
loader and has AdamW, one cycle, and the faster of bf16 and float32. YOLO keeps its recipe, with a `time` limit and its pictures in
memory, but runs twice: with an optimiser step every 64 pictures, its default, and every 16, better in so short a time. It runs where
ultralytics is installed, which is never a dependency, for its licence is AGPL. Nobody evaluates while training. One scorer, the
library's, judges what all of them find in the same pictures; the peers keep their own thresholds, which are lower than ours.
One after the other, in one process.
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
from common import end_workers, fit_ssdlite, learner, machine, shapes, ssdlite, ssdlite_found, table

from ssd_tutorial.boxes import xyxy_to_cxcywh
from ssd_tutorial.readers import image_size, read_voc
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import evaluate, score_detections
from ssd_tutorial.predict import Detections, Detector


def epochs_in(learn, opts, seconds):
    "How many epochs fit into the time."
    for _ in range(2):      # the first epoch fills the memory and warms up
        start = time.perf_counter()
        with learn.no_bar(), learn.no_logging(): learn.fit(1, opts["lr"])
    took = time.perf_counter() - start
    end_workers(learn)
    return max(1, math.floor(seconds / took))


def ours(train, valid, vocab, args, bf16=None, epochs=None):
    "`ssd_train`'s model and settings, with as many epochs as fit into the time."
    make = lambda: learner(train, model=args.model, workers=args.workers, seed=args.seed, bf16=bf16, **args.kind)
    if epochs is None: epochs = epochs_in(*make(), args.seconds)
    learn, opts = make()
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, opts["lr"])
    seconds, loss = time.perf_counter() - start, learn.loss_func
    end_workers(learn)
    report = evaluate(Detector(learn.model, loss.anchors, vocab, opts["size"], loss.coder), valid)
    return f"ours, {args.model}, {opts['arch']}, {'bf16' if learn.model.bf16 else 'float32'}", seconds, epochs, report


def lite(train, valid, vocab, args):
    "torchvision's ssdlite320 at our size, fed by our loader."
    learn, opts = learner(train, workers=args.workers, seed=args.seed, bs=16, **args.kind)
    net = ssdlite(len(vocab), opts["size"])
    seconds, epochs, chosen = fit_ssdlite(net, learn.dls.train, args.seconds, args.lr)
    end_workers(learn)
    return f"torchvision ssdlite320, {chosen}", seconds, epochs, score_detections(list(ssdlite_found(net, valid, opts["size"], vocab)), valid, vocab)


def write_yolo(folder, samples, vocab):
    "Pictures and text files with a line per object: class, centre and size in [0,1]."
    for part in ("images", "labels"): (folder/part).mkdir(parents=True)
    for i, s in enumerate(samples):
        shutil.copy(s.path, folder/"images"/f"{i:06d}{s.path.suffix}")
        boxes = xyxy_to_cxcywh(torch.as_tensor(s.boxes) / torch.tensor([*image_size(s.path)] * 2)).tolist()
        (folder/"labels"/f"{i:06d}.txt").write_text("".join(f"{vocab.index(l) - 1} {x} {y} {w} {h}\n" for l, (x, y, w, h) in zip(s.labels, boxes)))


def yolo(train, valid, vocab, args, nbs=64):
    "ultralytics' YOLOv8n without weights and without network; the optimiser steps every `nbs` pictures."
    tmp, threads, size = args.tmp, torch.get_num_threads(), 224 if args.data else 128
    os.environ.update(YOLO_OFFLINE="True", YOLO_CONFIG_DIR=str(tmp), YOLO_AUTOINSTALL="False", YOLO_VERBOSE="False")
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):
        def validate(self): return {}, 0.      # takes time, and chooses by the validation set
        def final_eval(self): self.seconds = time.time() - self.train_time_start

    for name, samples in dict(train=train, valid=valid).items():
        if not (tmp/name).exists(): write_yolo(tmp/name, samples, vocab)
    (tmp/"data.yaml").write_text(f"path: {tmp}\ntrain: train/images\nval: valid/images\nnames: {vocab.names[1:]}\n")
    model = YOLO("yolov8n.yaml", verbose=False)
    model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(threads))      # it would leave one core idle
    model.train(Trainer, data=str(tmp/"data.yaml"), imgsz=size, time=args.seconds / 3600, batch=16, nbs=nbs, pretrained=False, amp=False,
                workers=args.workers, cache="ram", flipud=.5 if args.data else 0., plots=False, val=False, verbose=False, project=str(tmp),
                device=0 if torch.cuda.is_available() else "cpu", seed=args.seed)
    trained, found = YOLO(model.trainer.last), []
    for s in valid:
        r = trained.predict(s.path, imgsz=size, conf=.001, verbose=False)[0].boxes.cpu()
        found.append(Detections(r.xyxy.numpy(), [vocab[int(c) + 1] for c in r.cls], r.conf.numpy(), None))
    torch.set_num_threads(threads)
    name = f"ultralytics YOLOv8n, float32, a step every {nbs} pictures"
    return name, model.trainer.seconds, model.trainer.epoch + 1, score_detections(found, valid, vocab)


def main(args):
    if args.data: train, valid = (read_voc(args.data, s, drop_bad=True)[:n] for s, n in (("trainval", args.train), ("test", args.valid)))
    else: train, valid = shapes(args.train or 1000, 0), shapes(args.valid or 200, 1)
    args.kind, vocab = dict(data=str(args.data), augment="flips") if args.data else {}, Vocab.from_samples(train)
    print(f"{machine()}; {len(train)} pictures to train, {len(valid)} to validate, {args.seconds:g} s of training, seed {args.seed}\n", flush=True)
    peers = dict(ours=ours, ssdlite=lite, yolo=yolo, yolo16=partial(yolo, nbs=16))
    if importlib.util.find_spec("ultralytics") is None:
        print("ultralytics is not installed: no YOLOv8n\n")
        peers = dict(ours=ours, ssdlite=lite)
    with tempfile.TemporaryDirectory() as tmp:
        args.tmp = Path(tmp)
        runs = [f(train, valid, vocab, args) for name, f in peers.items() if args.only in (None, name)]
        if args.float32 and args.only in (None, "ours"): runs.append(ours(train, valid, vocab, args, bf16=False, epochs=runs[0][2]))
    ratio = lambda r: f"{runs[0][3].map / r.map:.2f}" if args.only is None and r.map > 0 else "-"
    table(["model", "seconds", "epochs", "mAP50", "mAP", "our mAP / its"],
          [(name, f"{s:.1f}", f"{e:.1f}", f"{r.map50:.3f}", f"{r.map:.3f}", ratio(r)) for name, s, e, r in runs])


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path, help="Pascal VOC tree with the lists trainval and test (default: embedded shapes)")
    ap.add_argument("--seconds", type=float, default=100, help="of training, for each (100)")
    ap.add_argument("--only", choices=["ours", "ssdlite", "yolo", "yolo16"], help="one of them (default: all)")
    ap.add_argument("--model", default="ssd", choices=["ssd", "article"], help="ours: ssd or article (ssd)")
    ap.add_argument("--float32", action="store_true", help="ours once more, without bf16, for as many epochs")
    ap.add_argument("--lr", type=float, default=4e-3, help="of ssdlite (4e-3, better than 2e-3 and 1e-3)")
    ap.add_argument("--workers", type=int, default=0, help="processes that load, for each (0)")
    ap.add_argument("--seed", type=int, default=0, help="of weights and order (0)")
    ap.add_argument("--train", type=int, help="pictures to train on (default: 1000 shapes; all of a VOC tree)")
    ap.add_argument("--valid", type=int, help="pictures to validate on (default: 200 shapes; all of a VOC tree)")
    main(ap.parse_args())
