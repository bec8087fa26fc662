"""The ladder from the article's detector to a modern one: one idea after the other, each
trained for the same time, on two kinds of drawn shapes and on photographs.

    make ladder                                  # all there is, some hours
    python benchmarks/ladder.py --data shapes hard --seeds 0 --seconds 60
    python benchmarks/ladder.py --data cards=DIR bccd=DIR

Shapes are trained from random weights, photographs from ImageNet's. Each step is the one it
stands upon, with one part changed (`STEPS`). Time is what the process calculates, so that other
programs do not count; nobody evaluates while training. Results go row by row into ladder.csv
beside this file, from which chapter 20 makes its tables and its picture; a row that is there
already is not trained again: delete the file to measure anew.
"""
import argparse
import inspect
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from common import add_row, machine, one_cycle, read_rows, shapes
from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import set_seed
from transfer import read

from ssd_tutorial import anchors, ladder, loss, model
from ssd_tutorial.anchors import SSDCoder, TanhCoder, make_anchors, suggest_anchors
from ssd_tutorial.data import Vocab
from ssd_tutorial.evaluate import evaluate, score_detections
from ssd_tutorial.ladder import (AverageWeights, CIoULoss, DistanceCoder, MosaicTransform,
                                 atss_match, centre_match, soft_suppression)
from ssd_tutorial.loss import (DistributionLoss, FocalLoss, GIoULoss, HardNegativeLoss,
                               MultiBoxLoss, SSDLoss, TaskAlignedLoss, VarifocalLoss)
from ssd_tutorial.model import grid_sizes, ssd_model
from ssd_tutorial.predict import Detections, Detector
from ssd_tutorial.recipes import preset, recipe_learner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/"tools"))
from measure_style import Code  # noqa: E402

FILE = Path(__file__).with_name("ladder.csv")
KEY = ["step", "data", "seed", "seconds"]


@dataclass
class Step:
    "One idea: what changes in the step below it, and the code that it needs."
    text: str
    base: str = None
    changes: dict = field(default_factory=dict)
    code: tuple = ()


def grid_anchors(coder):
    "One anchor for each cell, whatever the data."
    return lambda train, grids: make_anchors(grids, coder=coder)


def chosen_anchors(train, grids): return make_anchors(**suggest_anchors(train, grids))


STEPS = dict(
    article=Step("the article: 16 anchors in one grid", None, dict(
        arch="resnet8", maps=0, k=1, anchors=grid_anchors(TanhCoder()), loss=SSDLoss)),
    grids=Step("three grids", "article", dict(arch="resnet10", maps=3),
               (model.FeatureMaps, model.MultiScaleHead)),
    coder=Step("SSD's offsets, and its division", "grids", dict(
        anchors=grid_anchors(SSDCoder()), loss=MultiBoxLoss), (anchors.SSDCoder,
               loss.OffsetLoss, loss.MultiBoxLoss)),
    data=Step("six anchors, chosen by the data", "coder", dict(
        k=6, anchors=chosen_anchors), (anchors.suggest_anchors,)),
    negatives=Step("hard negatives", "data", dict(class_loss=HardNegativeLoss),
                   (loss.HardNegativeLoss,)),
    giou=Step("GIoU", "negatives", dict(box_loss=GIoULoss), (loss.GIoULoss, loss.paired_iou)),
    quality=Step("varifocal loss", "giou", dict(class_loss=VarifocalLoss),
                 (loss.VarifocalLoss,)),
    fpn=Step("feature pyramid", "quality", dict(neck="fpn"), (model.FeaturePyramid,)),
    ciou=Step("CIoU", "fpn", dict(box_loss=CIoULoss), (ladder.CIoULoss,)),
    atss=Step("ATSS", "fpn", dict(matcher=atss_match),
              (ladder.atss_match, ladder.nearest_anchors)),
    fcos=Step("no anchors: FCOS", "fpn", dict(
        k=1, anchors=grid_anchors(DistanceCoder()), matcher=centre_match),
              (ladder.DistanceCoder, ladder.centre_match)),
    aligned=Step("the network chooses", "fcos", dict(matcher=None, loss=TaskAlignedLoss),
                 (loss.TaskAlignedLoss, loss.aligned_match, loss.wanted_scores)),
    sides=Step("sides as distributions", "aligned", dict(
        numbers=64, anchors=grid_anchors(anchors.DistributionCoder()),
        box_loss=DistributionLoss), (anchors.DistributionCoder, loss.DistributionLoss)),
    ema=Step("average of the weights", "sides", dict(average=True), (ladder.AverageWeights,)),
    mosaic=Step("mosaic", "sides", dict(mosaic=True),
                (ladder.MosaicTransform, ladder.four_in_one)),
    constant=Step("constant rate", "sides", dict(constant=True)),
    agnostic=Step("suppression across classes", "sides", dict(found="agnostic")),
    soft=Step("soft-NMS", "sides", dict(found="soft"), (ladder.soft_suppression,)),
)


def parts_of(name):
    "All settings of a step: its own over those of the steps below."
    step = STEPS[name]
    below = parts_of(step.base) if step.base else dict(loss=MultiBoxLoss)
    return below | step.changes


def n_lines(things):
    "Lines of code, without docstrings, comments and blank lines."
    return sum(len(Code("", inspect.getsource(thing)).density) for thing in things)


def now():
    "Seconds that this process has calculated; on a GPU seconds of the clock."
    if torch.cuda.is_available(): return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


class Cycle(Callback):
    "One cycle over a time instead of over epochs; then the training ends."
    order = 61
    def __init__(self, seconds, lr, constant=False):
        self.seconds = seconds
        self.rate, self.momentum = one_cycle(lr)
        if constant: self.rate = lambda done: lr

    def before_fit(self):
        self.start = now()
        self.images = 0

    def before_batch(self):
        if not self.training: return
        done = (now() - self.start) / self.seconds
        if done >= 1: raise CancelFitException
        self.opt.set_hyper("lr", self.rate(done))
        self.opt.set_hyper("mom", self.momentum(done))
        self.images += len(self.xb[0])


def built(parts, recipe, train, vocab):
    "Model and loss of a step."
    head = {k: parts[k] for k in ("k", "maps", "neck", "numbers") if k in parts}
    net = ssd_model(recipe.arch, len(vocab), recipe.pretrained, **head)
    chosen = parts["anchors"](train, grid_sizes(net, recipe.size))
    given = dict(class_loss=parts.get("class_loss", FocalLoss)())
    if "box_loss" in parts: given["box_loss"] = parts["box_loss"]()
    if parts.get("matcher"): given["matcher"] = parts["matcher"]
    return net, parts["loss"](chosen, len(vocab), **given)


def trained(parts, train, vocab, recipe, seconds):
    "The learner after its time, and the images it has seen in a second."
    set_seed(recipe.seed)
    net_and_loss = built(parts, recipe, train, vocab)
    average = [AverageWeights()] if parts.get("average") else []
    learn = recipe_learner(train, train[:1], vocab, recipe, parts=net_and_loss, cbs=average)
    if parts.get("mosaic"):
        data = learn.dls.train.dataset
        data.transform = MosaicTransform(data.transform, recipe.size, recipe.seed)
        data.max_objects *= 4
    start = now()
    with learn.no_bar(), learn.no_logging():
        if recipe.frozen:
            learn.freeze()
            learn.fit(recipe.frozen, recipe.lr)
            learn.freeze_to(1)
        cycle = Cycle(seconds - (now() - start), recipe.lr, parts.get("constant"))
        learn.fit(10**6, recipe.lr, cbs=cycle)
    return learn, cycle.images / cycle.seconds


@torch.no_grad()
def soft_detections(detector, samples):
    "What soft-NMS makes of the candidates of each class."
    for s in samples:
        boxes, scores, (image,) = detector.raw([s.path])
        found = []
        for column in range(scores.shape[-1]):
            score, rows = scores[0, :, column].topk(min(200, scores.shape[1]))
            rows = rows[score >= .01]
            box = boxes[0, rows]
            score = soft_suppression(box, scores[0, rows, column])
            found += [(v, b, detector.vocab[column + 1]) for v, b in zip(score.tolist(), box)]
        found = sorted((f for f in found if f[0] >= .01), key=lambda f: -f[0])[:100]
        pixels = torch.tensor([*image.size] * 2)
        corners = [(b * pixels).numpy() for _, b, _ in found]
        yield Detections(corners, [n for *_, n in found], [v for v, *_ in found], None)


def judged(parts, detector, test):
    "The report of a step, with its kind of suppression."
    kind = parts.get("found")
    if kind == "soft":
        return score_detections([*soft_detections(detector, test)], test, detector.vocab)
    if kind == "agnostic":
        found = detector.predict([s.path for s in test], .01, across_thresh=.5)
        return score_detections([replace(d, image=None) for d in found], test, detector.vocab)
    return evaluate(detector, test)


def precision_at(report, recall=.8):
    "The highest precision at which so many of the objects are found; 0 if they never are."
    points = report.at_thresholds([i / 200 for i in range(2, 200)])
    return max((p.precision for p in points if p.recall >= recall), default=0.)


def images_per_second(detector, test):
    "Of prediction, in the same seconds as those of training; the second time counts."
    paths = [s.path for s in test[:64]]
    for _ in range(2):
        start = now()
        detector.predict(paths)
    return len(paths) / (now() - start)


def data_of(name, folders, seed):
    "Samples to train on and to judge by, and the situation."
    if name in folders: return *read(folders[name], seed), "pretrained"
    hard = name == "hard"
    return shapes(1000, 0, hard), shapes(200, 1, hard), "shapes"


# what only changes prediction is judged with the detector of the step below
def training_of(name): return STEPS[name].base if "found" in STEPS[name].changes else name


def rows_of(name, data, folders, seed, seconds):
    "Train a step; a row of the CSV file for it, and for those that share its training."
    train, test, situation = data_of(data, folders, seed)
    vocab = Vocab.from_samples(train + test)
    parts = parts_of(name)
    # photographs keep the body that has ImageNet's weights
    given = dict(arch=parts["arch"]) if situation == "shapes" else {}
    recipe = preset("ssd", situation, seed=seed, workers=0, **given)
    learn, speed = trained(parts, train, vocab, recipe, seconds)
    detector = Detector(learn.model.cpu(), learn.loss_func.anchors, vocab, recipe.size)
    weights = sum(p.numel() for p in detector.model.parameters())
    for step in [s for s in STEPS if training_of(s) == name]:
        report = judged(parts_of(step), detector, test)
        yield dict(step=step, base=STEPS[step].base, text=STEPS[step].text,
                   data=data, seed=seed, seconds=f"{seconds:g}",
                   map=f"{report.map:.4f}", map50=f"{report.map50:.4f}",
                   ap75=f"{report.map75:.4f}", precision=f"{precision_at(report):.4f}",
                   weights=weights, train_images=f"{speed:.1f}",
                   predict_images=f"{images_per_second(detector, test):.1f}",
                   lines=n_lines(STEPS[step].code))


def done(file, *wanted):
    "Is there a row of this step, these data, seed and seconds?"
    key = dict(zip(KEY, wanted))
    return any(key.items() <= row.items() for row in read_rows(file))


def main(args):
    folders = {}
    names = []
    for given in args.data:
        name, _, folder = given.partition("=")
        names.append(name)
        if folder: folders[name] = Path(folder)
    print(f"{machine()}; {args.seconds:g} s of training\n", flush=True)
    for seed in args.seeds:
        for name in names:
            for step in STEPS:
                if training_of(step) != step or args.only and step not in args.only: continue
                if done(args.out, step, name, str(seed), f"{args.seconds:g}"): continue
                for row in rows_of(step, name, folders, seed, args.seconds):
                    add_row(args.out, row, machine())
                    print(*row.values(), sep=", ", flush=True)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", nargs="+", default=["shapes", "hard"],
                    help="shapes, hard, or name=folder for photographs (shapes hard)")
    ap.add_argument("--seconds", type=float, default=100, help="of training, for each (100)")
    ap.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    ap.add_argument("--only", nargs="+", choices=list(STEPS), help="some steps (all)")
    ap.add_argument("--out", type=Path, default=FILE,
                    help="CSV file that the results are added to (ladder.csv beside this)")
    main(ap.parse_args())
