"""COCO mAP after the same number of seconds of training, from the same ImageNet weights: ours,
torchvision's `SSD` on the same mobilenet_v2, and its ssd300_vgg16, on folders of photographs.

    python benchmarks/transfer.py --data nbs/tutorials/data/bccd --seconds 300 --seeds 0 1 2
    python benchmarks/transfer.py --data DIR DIR DIR --only ours torchvision

Trained on what a folder has for training and validation, judged on what it has for testing; if
that is less than 20 images, on a fifth of all, held out by the seed. Each result goes at once
into a CSV file, and a row that is there already is not trained again: delete the file to
measure anew. Then a table, with medians over the seeds.

Ours is `ssd_train` with its preset, for as many epochs as fit into the time, which is found
with a throwaway model. torchvision's reads the same loader, in batches of the same size, and
has AdamW, one cycle over the whole time, and the faster of bf16 and float32, of channels-last
and contiguous. Its body is cut by torchvision's own function for ssdlite320.
The rates of the peers stand in `MODELS`; they have not been tuned on these folders.
ssd300_vgg16 needs images of 300 pixels, and is left out where TORCH_HOME has no vgg16. Nobody
evaluates while training. One scorer, the library's, judges what all of them find in the same
images; the peers keep the thresholds of torchvision's ssdlite320 and ssd300_vgg16, which are no
higher than ours. One after the other, in one process.
"""
import argparse
import math
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from common import (add_row, end_workers, learner, machine, precision, read_rows, ready_image,
                    short_norm, table, trained, trained_peer, uses_bf16)
from torchvision.models import VGG16_Weights, mobilenet_v2
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, ssd300_vgg16
from torchvision.models.detection.ssdlite import SSDLiteHead, _mobilenet_extractor

from ssd_tutorial.data import Vocab, split_samples
from ssd_tutorial.folders import read_folder
from ssd_tutorial.readers import check_images
from ssd_tutorial.recipes import fit_recipe

VGG16 = VGG16_Weights.IMAGENET1K_V1
LEAST_TEST = 20     # images; fewer say little


def name_of(root):
    "A folder's name, and that of the folder it lies in."
    return "/".join(root.resolve().parts[-2:])


def read(root, seed):
    "Samples to train on, and samples to judge by."
    folder = read_folder(root, drop_bad=True)
    train = check_images(folder.train + folder.valid, drop_bad=True)
    test = check_images(folder.test, drop_bad=True)
    if len(test) >= LEAST_TEST: return train, test
    return split_samples(train + test, seed=seed)


def epochs_in(learn, recipe, seconds):
    "How many epochs fit into the time, behind those with a frozen body."
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, replace(recipe, epochs=2))
    *first, last = [row["seconds"] for row in learn.history.rows]
    end_workers(learn)
    # the first ones, one of them with everything free, take as long in the training itself
    return max(1, 1 + math.floor((seconds - sum(first)) / last))


def ours(train, test, vocab, args, seed):
    "`ssd_train`'s model and settings, with as many epochs as fit into the time."
    make = partial(learner, train, "pretrained", seed=seed, workers=args.workers, vocab=vocab)
    epochs = epochs_in(*make(), args.seconds)
    learn, recipe = make(epochs=epochs)
    seconds, report = trained(learn, recipe, test)
    settings = f"{recipe.arch}, {recipe.size} pixels, {precision(uses_bf16(learn))}"
    return seconds, recipe.frozen + epochs, settings, report


def mobilenet_ssd(n_classes, size):
    "torchvision's ssdlite320 with mobilenet_v2 in place of v3, for images of `size` pixels."
    body = mobilenet_v2(weights="DEFAULT")
    # where it is cut, torchvision expects a block of mobilenet_v3, which calls its layers so
    body.features[14].block = body.features[14].conv
    maps = _mobilenet_extractor(body, 4, short_norm())
    boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=.2, max_ratio=.95)
    head = SSDLiteHead(retrieve_out_channels(maps, (size, size)),
                       boxes.num_anchors_per_location(), n_classes, short_norm())
    return SSD(maps, boxes, (size, size), n_classes, head=head, score_thresh=.001,
               nms_thresh=.55, detections_per_img=300, topk_candidates=300)


def vgg16_ssd(n_classes, size):
    return ssd300_vgg16(weights_backbone=VGG16, num_classes=n_classes)


def peer(build, lr, train, test, vocab, args, seed, arch="mobilenet_v2", trial=None, **given):
    "A detector of torchvision's, fed by our loader."
    learn, recipe = learner(train, "pretrained", seed=seed, workers=args.workers, vocab=vocab,
                            **given)
    net = ready_image(build(len(vocab), recipe.size), recipe.size)
    parts = trained_peer(net, learn, recipe.size, test, args.seconds, lr, trial)
    seconds, epochs, chosen, report = parts
    return seconds, epochs, f"{arch}, {recipe.size} pixels, {chosen}", report


MODELS = dict(ours=ours, torchvision=partial(peer, mobilenet_ssd, 2e-3),
              vgg16=partial(peer, vgg16_ssd, 1e-4, arch="vgg16", trial=2, size=300))


def chosen_models(only):
    "What is to be trained."
    chosen = only or list(MODELS)
    weights = Path(torch.hub.get_dir(), "checkpoints", Path(VGG16.url).name)
    if "vgg16" in chosen and not weights.exists():
        print(f"no vgg16, as there is no {weights.name} in TORCH_HOME\n")
        chosen = [name for name in chosen if name != "vgg16"]
    return chosen


def measure(root, model, seed, args):
    "Train and judge; a row of the CSV file."
    train, test = read(root, seed)
    vocab = Vocab.from_samples(train + test)
    took, epochs, settings, report = MODELS[model](train, test, vocab, args, seed)
    return dict(folder=name_of(root), model=model, seed=seed, seconds=f"{args.seconds:g}",
                took=f"{took:.1f}", epochs=f"{epochs:.1f}", train=len(train), test=len(test),
                map50=f"{report.map50:.4f}", map=f"{report.map:.4f}", settings=settings)


def summary(rows, seconds):
    "Rows of a table: medians over the seeds, and how many times its mAP ours is."
    groups = defaultdict(list)
    for r in rows:
        if r["seconds"] == f"{seconds:g}": groups[r["folder"], r["model"]].append(r)

    def mid(key, column): return median(float(r[column]) for r in groups[key])

    result = []
    for key in groups:
        folder, model = key
        best = folder, "ours"
        compared = model != "ours" and best in groups and mid(key, "map") > 0
        ratio = f"{mid(best, 'map') / mid(key, 'map'):.2f}" if compared else "-"
        figures = [f"{mid(key, c):.3f}" for c in ("map50", "map")]
        times = [f"{mid(key, c):.1f}" for c in ("took", "epochs")]
        settings = groups[key][0]["settings"]
        result.append((*key, settings, len(groups[key]), *times, *figures, ratio))
    return sorted(result, key=lambda row: (row[0], list(MODELS).index(row[1])))


def main(args):
    folders = {name_of(root): root for root in args.data}
    if len(folders) < len(args.data): raise SystemExit("--data: name each folder once")
    models = chosen_models(args.only)
    print(f"{machine()}; {args.seconds:g} s of training\n", flush=True)
    plan = [(name, model, seed) for name in folders for seed in args.seeds for model in models]
    for name, model, seed in plan:
        wanted = name, model, str(seed), f"{args.seconds:g}"
        done = [tuple(r.values())[:4] for r in read_rows(args.out)]
        if wanted in done: continue
        row = measure(folders[name], model, seed, args)
        add_row(args.out, row, machine())
        print(*row.values(), sep=", ", flush=True)
    print()
    table(["folder", "model", "settings", "seeds", "seconds", "epochs", "mAP50", "mAP",
           "our mAP / its"], summary(read_rows(args.out), args.seconds))


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path, nargs="+", required=True,
                    help="annotated folders: Pascal VOC, COCO or YOLO")
    ap.add_argument("--seconds", type=float, default=300, help="of training, for each (300)")
    ap.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2],
                    help="of weights, order, and a split where one is needed (0 1 2)")
    ap.add_argument("--only", nargs="+", choices=list(MODELS), help="some of them (all)")
    ap.add_argument("--out", type=Path, default=Path(__file__).with_name("transfer.csv"),
                    help="CSV file that the results are added to (transfer.csv beside this)")
    ap.add_argument("--workers", type=int, default=0, help="processes that load, for each (0)")
    main(ap.parse_args())
