"""From paths to boxes: what `Detector.predict` spends its time on, and torchvision's ssdlite320 at the same size beside it.

    python benchmarks/predict.py
    python benchmarks/predict.py --detector runs/train/detector.pt

Both detectors are trained for a moment first, or the number of boxes to suppress would mean nothing. They get the same paths, in
batches of 32, and the same threshold on the score, and are run in turn; medians. `suppression` is `suppress`, `decoding` the coder;
`the rest` holds the sigmoid, results, and all else. Score 0.3 is for use, 0.01 for evaluation.
"""
import argparse
import statistics
import time
from types import SimpleNamespace
from unittest.mock import patch

import torch
from common import Clock, any_picture, fit_ssdlite, learner, machine, shapes, ssdlite, table
from torchvision.transforms.functional import pil_to_tensor

from ssd_tutorial import predict
from ssd_tutorial.readers import load_image
from ssd_tutorial.predict import Detector

PARTS = ["reading", "resizing", "normalising", "model", "decoding", "suppression", "the rest"]


def ours(args, samples):
    "A detector with the `shapes` preset, trained for a few epochs, and the loader it was trained with."
    learn, opts = learner(samples, workers=0)
    loader, loss = learn.dls.train, learn.loss_func
    if args.detector: detector = Detector.load(args.detector)
    else:
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(args.epochs, opts["lr"])
        detector = Detector(learn.model.cpu(), loss.anchors, loader.dataset.vocab, opts["size"], loss.coder)
    detector.model.bf16 = args.bf16
    return detector, loader


@torch.no_grad()
def ssdlite_predict(net, paths, score, bf16):
    net.score_thresh = score
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return [r for i in range(0, len(paths), 32) for r in net([pil_to_tensor(load_image(p)).float() / 255 for p in paths[i:i + 32]])]


def shares(detector, paths, score):
    "Milliseconds per image of each part of `predict`."
    clock = Clock()
    names = dict(load_image="reading", resize_image="resizing", image_tensor="normalising", clip_boxes="decoding", suppress="suppression")
    patches = [patch.object(predict, f, clock.of(name, getattr(predict, f))) for f, name in names.items()]
    patches += [patch.object(detector, "coder", SimpleNamespace(decode=clock.of("decoding", detector.coder.decode))),
                patch.object(detector.model, "forward", clock.of("model", detector.model.forward))]
    for p in patches: p.start()
    start = time.perf_counter()
    detector.predict(paths, score)
    clock["the rest"] = time.perf_counter() - start - sum(clock.values())
    for p in patches: p.stop()
    return {k: v / len(paths) * 1e3 for k, v in clock.items()}


def seconds(f):
    start = time.perf_counter()
    found = f()
    return time.perf_counter() - start, sum(len(d["boxes"] if isinstance(d, dict) else d) for d in found) / len(found)


def main(args):
    samples = shapes(args.n, 0)
    paths = [s.path for s in shapes(args.images, 1)]
    detector, loader = ours(args, samples)
    net = ssdlite(len(detector.vocab), detector.size)
    fit_ssdlite(net, loader, args.epochs * args.seconds)
    net = any_picture(net, detector.size).cpu().eval()
    rows, parts = [], {}
    for score in (.3, .01):
        runs = {"`Detector.predict`": lambda score=score: detector.predict(paths, score),
                "torchvision's ssdlite320": lambda score=score: ssdlite_predict(net, paths, score, args.bf16)}
        for f in runs.values(): f()
        times = [{k: seconds(f) for k, f in runs.items()} for _ in range(args.rounds)]
        parts[score] = [shares(detector, paths, score) for _ in range(args.rounds)]
        rows += [(k, score, f"{times[0][k][1]:.1f}", f"{len(paths) / statistics.median(t[k][0] for t in times):.0f}",
                  f"{statistics.median(t[list(runs)[1]][0] / t[k][0] for t in times):.2f}") for k in runs]
    print(f"{machine()}; {len(paths)} pictures, {detector.size} pixels for the models, {'bf16' if args.bf16 else 'float32'}\n")
    table(["from paths to boxes", "score", "boxes per image", "images/s", "ratio to ssdlite"], rows)
    median = {s: {k: statistics.median(p.get(k, 0) for p in ps) for k in PARTS} for s, ps in parts.items()}
    share = {s: sum(m[k] for k in PARTS[4:]) / sum(m.values()) for s, m in median.items()}
    table(["ms per image, score", *PARTS, "share of the last three"],
          [(s, *(f"{m[k]:.3f}" for k in PARTS), f"{share[s]:.1%}") for s, m in median.items()])


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--detector", help="file written by `Detector.save`, instead of training one")
    ap.add_argument("--epochs", type=int, default=4, help="to train our detector (4)")
    ap.add_argument("--seconds", type=float, default=8, help="to train ssdlite, per epoch of ours (8)")
    ap.add_argument("-n", type=int, default=1000, help="pictures to train on (1000)")
    ap.add_argument("--images", type=int, default=64, help="pictures to predict (64)")
    ap.add_argument("--rounds", type=int, default=10, help="rounds (10)")
    ap.add_argument("--bf16", action="store_true", help="predict with bfloat16")
    main(ap.parse_args())
