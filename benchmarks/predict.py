"""From paths to boxes: what `Detector.predict` spends its time on, and torchvision's ssdlite320
at the same size beside it.

    python benchmarks/predict.py
    python benchmarks/predict.py --detector runs/train/detector.pt

Both detectors are trained for a moment first, or the number of boxes to suppress would mean
nothing. They get the same paths, in batches of 32, and the same threshold on the score, and are
run in turn; medians. `suppression` is `non_max_suppression`, `decoding` is `anchors.decode`;
`the rest` holds the sigmoid, results, and all else. Score 0.5 is for use, 0.01 for evaluation.
"""
import argparse
import statistics
import time
from functools import partial
from unittest.mock import patch

import torch
from common import (Clock, any_image, fit_ssdlite, learner, machine, shapes, ssdlite,
                    table)
from torchvision.transforms.functional import pil_to_tensor

from ssd_tutorial import predict
from ssd_tutorial.anchors import Anchors
from ssd_tutorial.model import has_bf16, inference_copy
from ssd_tutorial.predict import Detector
from ssd_tutorial.readers import load_image

PARTS = ["reading", "resizing", "normalising", "model", "decoding", "suppression", "the rest"]
NAMES = dict(load_image="reading", resize_image="resizing", image_tensor="normalising",
             clip_boxes="decoding", non_max_suppression="suppression")


def ours(args, samples):
    "A detector with the `shapes` preset, trained for a few epochs, and its loader."
    learn, recipe = learner(samples, workers=0)
    loader = learn.dls.train
    if args.detector: return Detector.load(args.detector), loader
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(args.epochs, recipe.lr)
    anchors = learn.loss_func.anchors
    return Detector(learn.model.cpu(), anchors, loader.dataset.vocab, recipe.size), loader


@torch.no_grad()
def ssdlite_predict(net, paths, score, bf16):
    net.score_thresh = score
    results = []
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for i in range(0, len(paths), 32):
            images = [pil_to_tensor(load_image(p)).float() / 255 for p in paths[i:i + 32]]
            results += net(images)
    return results


def shares(detector, paths, score):
    "Milliseconds per image of each part of `predict`."
    clock = Clock()
    # what predicts is a faster copy of the model, which a new detector makes at first use
    fast = inference_copy(detector.model)
    detector = Detector(detector.model, detector.anchors, detector.vocab, detector.size)
    patches = [patch.object(predict, f, clock.of(name, getattr(predict, f)))
               for f, name in NAMES.items()]
    patches += [patch.object(Anchors, "decode", clock.of("decoding", Anchors.decode)),
                patch.object(predict, "inference_copy", lambda model: fast),
                patch.object(fast, "forward", clock.of("model", fast.forward))]
    for p in patches: p.start()
    start = time.perf_counter()
    detector.predict(paths, score)
    clock["the rest"] = time.perf_counter() - start - sum(clock.values())
    for p in patches: p.stop()
    return {k: v / len(paths) * 1e3 for k, v in clock.items()}


def n_boxes(result): return len(result["boxes"] if isinstance(result, dict) else result)


def clocked(f):
    "Seconds, and boxes per image."
    start = time.perf_counter()
    results = f()
    seconds = time.perf_counter() - start
    return seconds, sum(map(n_boxes, results)) / len(results)


def race(runs, rounds, n_images, score):
    "Rows of the table: both detectors in turn, round after round."
    for f in runs.values(): f()      # warm up
    times = []
    for _ in range(rounds): times.append({k: clocked(f) for k, f in runs.items()})
    peer = list(runs)[1]
    for k in runs:
        seconds = statistics.median(t[k][0] for t in times)
        ratio = statistics.median(t[peer][0] / t[k][0] for t in times)
        boxes = times[0][k][1]
        yield k, score, f"{boxes:.1f}", f"{n_images / seconds:.0f}", f"{ratio:.2f}"


def medians(rounds):
    medians = {}
    for k in PARTS: medians[k] = statistics.median(r.get(k, 0) for r in rounds)
    return medians


def main(args):
    samples = shapes(args.n, 0)
    paths = [s.path for s in shapes(args.images, 1)]
    detector, loader = ours(args, samples)
    net = ssdlite(len(detector.vocab), detector.size)
    fit_ssdlite(net, loader, args.epochs * args.seconds)
    net = any_image(net, detector.size).cpu().eval()
    rows = []
    parts = []
    for score in (.5, .01):
        given = paths, score
        runs = {"`Detector.predict`": partial(detector.predict, *given),
                "torchvision's ssdlite320": partial(ssdlite_predict, net, *given, False)}
        # ours takes short numbers by itself where the hardware has them
        if has_bf16():
            runs["the same, bfloat16"] = partial(ssdlite_predict, net, *given, True)
        rows += race(runs, args.rounds, len(paths), score)
        ms = medians([shares(detector, *given) for _ in range(args.rounds)])
        after = sum(ms[k] for k in PARTS[4:]) / sum(ms.values())
        parts.append((score, *(f"{ms[k]:.3f}" for k in PARTS), f"{after:.1%}"))
    print(f"{machine()}; {len(paths)} images, {detector.size} pixels for the models\n")
    table(["from paths to boxes", "score", "boxes per image", "images/s", "ratio to ssdlite"],
          rows)
    table(["ms per image, score", *PARTS, "share of the last three"], parts)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--detector", help="file of `Detector.save`, instead of training one")
    ap.add_argument("--epochs", type=int, default=4, help="to train our detector (4)")
    ap.add_argument("--seconds", type=float, default=8,
                    help="to train ssdlite, per epoch of ours (8)")
    ap.add_argument("-n", type=int, default=1000, help="images to train on (1000)")
    ap.add_argument("--images", type=int, default=64, help="images to predict (64)")
    ap.add_argument("--rounds", type=int, default=10, help="rounds (10)")
    main(ap.parse_args())
