"""Choices of the book held against each other: heads, losses, anchors. Each is trained
for a few epochs with several seeds, all else being equal, and judged on images held back.

The results go row by row into choices.csv beside this file, and a row that is there already is
not trained again: delete the file to measure anew."""
import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import add_row, machine, read_rows, shapes, table
from fastai.callback.progress import ProgressCallback
from fastai.torch_core import default_device, set_seed
from fastcore.basics import defaults
from torch import nn
from torch.nn import functional as F

from ssd_tutorial.anchors import SSDCoder, make_anchors
from ssd_tutorial.data import Vocab, split_samples
from ssd_tutorial.evaluate import evaluate
from ssd_tutorial.loss import (
    FocalLoss, GIoULoss, HardNegativeLoss, MultiBoxLoss, VarifocalLoss
)
from ssd_tutorial.model import MultiScaleHead, fast_dtype, grid_sizes, ssd_model
from ssd_tutorial.predict import Detector
from ssd_tutorial.recipes import fit_recipe, preset, recipe_loaders, recipe_model
from ssd_tutorial.train import ssd_learner

FILE = Path(__file__).with_name("choices.csv")
COLUMNS = ["choice", "value", "seed", "epochs", "map50", "map"]
N_IMAGES = 1000
# the recipe of the chapter on evaluation, with focal loss and offsets to begin with
RECIPE = dict(model="ssd", situation="shapes", bs=16, lr=2e-3, workers=0, class_loss="focal",
              box_loss="offsets")


class Pyramid(nn.Module):
    "Bring maps to one width, and add each coarser one to the finer (Lin et al. 2017)."
    def __init__(self, widths, width):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)

    def forward(self, maps):
        maps = [conv(m) for conv, m in zip(self.lateral, maps)]
        # from coarse to fine: the coarsest reaches them all
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=maps[i - 1].shape[-2:])
        return maps


def with_pyramid(model, n_classes, width=64):
    body, head = model
    maps = nn.Sequential(body, Pyramid(body.widths, width))
    model[0] = maps.to(next(model.parameters()).device)
    model[1] = MultiScaleHead(n_classes, head.k, [width] * len(body.widths))


def share_head(model):
    """Use the convolutions of the first map for all maps. The 1x1 convolutions before them stay
    apart, as the maps differ in width, and so does batch norm, as they differ in statistics."""
    head = model[1]
    for stem in head.stems: stem[1] = head.stems[0][1]
    head.classes = nn.ModuleList([head.classes[0]] * len(head.stems))
    head.boxes = nn.ModuleList([head.boxes[0]] * len(head.stems))


def change_head(name):
    def build(recipe, train, vocab):
        model, loss = recipe_model(recipe, train, vocab)
        if "pyramid" in name: with_pyramid(model, len(vocab))
        if "shared" in name: share_head(model)
        return model, loss
    return build


def change_loss(class_loss=None, box_loss=None):
    def build(recipe, train, vocab):
        model, loss = recipe_model(recipe, train, vocab)
        return model, MultiBoxLoss(loss.anchors, len(vocab), class_loss, box_loss=box_loss)
    return build


def small_anchors(recipe, train, vocab):
    model, _ = recipe_model(recipe, train, vocab)
    ratios = ((1, 1), (1.2, .83), (.83, 1.2))
    grids = grid_sizes(model, recipe.size)
    anchors = make_anchors(grids, (.7, 1), ratios, SSDCoder())
    return model, MultiBoxLoss(anchors, len(vocab))


def sixteen_anchors(recipe, train, vocab):
    "The last map alone, with one anchor for each of its cells."
    model = ssd_model(recipe.arch, len(vocab), recipe.pretrained, k=1, maps=1)
    anchors = make_anchors(grid_sizes(model, recipe.size), coder=SSDCoder())
    return model, MultiBoxLoss(anchors, len(vocab))


BASELINE = ("losses", "focal, offsets")
CHOICES = {
    BASELINE: recipe_model,
    ("head", "one shared head"): change_head("shared"),
    ("head", "pyramid, own heads"): change_head("pyramid"),
    ("head", "pyramid, one shared head"): change_head("pyramid, shared"),
    ("class loss", "focal, alpha 0.5"): change_loss(FocalLoss(alpha=.5)),
    ("class loss", "focal, alpha 0.75"): change_loss(FocalLoss(alpha=.75)),
    ("class loss", "hard negatives"): change_loss(HardNegativeLoss()),
    ("box loss", "GIoU"): change_loss(None, GIoULoss()),
    ("box loss", "GIoU, weight 1"): change_loss(None, GIoULoss(weight=1.)),
    ("losses", "hard negatives, GIoU"): change_loss(HardNegativeLoss(), GIoULoss()),
    ("losses", "varifocal, GIoU"): change_loss(VarifocalLoss(), GIoULoss()),
    ("anchors", "16, one size"): sixteen_anchors,
    ("anchors", "2016, too small"): small_anchors,
}


def trained_report(build, recipe, train, valid):
    "Train what `build` makes of a recipe, and judge it."
    vocab = Vocab.from_samples(train)
    set_seed(recipe.seed)
    model, loss = build(recipe, train, vocab)
    loaders = recipe_loaders(train, valid[:1], vocab, recipe)
    learn = ssd_learner(loaders, model, loss, dtype=fast_dtype(default_device()))
    with learn.no_logging(): fit_recipe(learn, recipe)
    detector = Detector(learn.model.cpu(), learn.loss_func.anchors, vocab, recipe.size)
    return evaluate(detector, valid)


def done_runs():
    done = []
    for row in read_rows(FILE): done.append([row[name] for name in COLUMNS[:4]])
    return done


def mean_and_spread(values):
    values = np.array(values, dtype=float)
    # of a sample: with one seed there is no spread, nan
    return f"{values.mean():.3f} ± {np.std(values, ddof=1):.3f}"


def summary(rows):
    "Rows of a table: epochs, choice, value, seeds, mean and deviation of mAP50 and mAP."
    groups = defaultdict(list)
    for r in rows: groups[r["epochs"], r["choice"], r["value"]].append(r)
    result = []
    for key, group in groups.items():
        map50 = mean_and_spread([r["map50"] for r in group])
        result.append((*key, len(group), map50, mean_and_spread([r["map"] for r in group])))
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--epochs", type=int, default=4)
    p.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    p.add_argument("--only", nargs="+", help="values to train, such as 'hard negatives'")
    p.add_argument("--show", action="store_true", help="print the table, train nothing")
    args = p.parse_args()
    if ProgressCallback in defaults.callbacks: defaults.callbacks.remove(ProgressCallback)
    train, valid = split_samples(shapes(N_IMAGES, seed=0))
    plan = [(seed, key) for seed in range(args.seeds) for key in CHOICES
            if not args.only or key[1] in args.only]
    for seed, key in plan if not args.show else []:
        wanted = [*key, str(seed), str(args.epochs)]
        if wanted in done_runs(): continue
        recipe = preset(epochs=args.epochs, seed=seed, **RECIPE)
        start = time.perf_counter()
        report = trained_report(CHOICES[key], recipe, train, valid)
        values = (*key, seed, args.epochs, f"{report.map50:.4f}", f"{report.map:.4f}")
        add_row(FILE, dict(zip(COLUMNS, values)), f"{N_IMAGES} drawn images; {machine()}")
        print(*values, f"{time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{machine()}\n")
    table(["epochs", "choice", "value", "seeds", "mAP50", "mAP"], summary(read_rows(FILE)))


if __name__ == "__main__": main()
