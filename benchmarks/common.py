"""What the benchmarks share: images, a learner with the settings of `ssd_train`, torchvision's
SSDs as peers, a clock, tables in markdown and in CSV files that grow row by row."""
import copy
import csv
import os
import platform
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from fastai.callback.schedule import combined_cos
from fastai.torch_core import default_device
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ssd_tutorial.data import IMAGENET_MEAN, IMAGENET_STD, Vocab, image_tensor, resize_image
from ssd_tutorial.evaluate import evaluate, score_detections
from ssd_tutorial.model import has_bf16
from ssd_tutorial.predict import Detections, Detector
from ssd_tutorial.readers import load_image
from ssd_tutorial.recipes import fit_recipe, preset, recipe_learner
from ssd_tutorial.shapes import make_shapes


class Clock(defaultdict):
    "Seconds by name, spent in functions that `of` has wrapped."
    def __init__(self): super().__init__(float)

    def of(self, name, f):
        def clocked(*args, **kwargs):
            start = time.perf_counter()
            try: return f(*args, **kwargs)
            finally: self[name] += time.perf_counter() - start
        return clocked


def processor():
    "The name of the CPU where Linux tells it, else its kind."
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine():
    "Versions, device and threads, in one line."
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = (f"Python {platform.python_version()}, torch {torch.__version__}, "
                f"torchvision {torchvision.__version__}, NumPy {np.__version__}")
    return (f"{versions}; {device} ({processor()}, {os.cpu_count()} cores), "
            f"{torch.get_num_threads()} threads")


def table(columns, rows):
    "Print a markdown table."
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for r in rows: print("| " + " | ".join(map(str, r)) + " |")
    print(flush=True)


def read_rows(file):
    "Rows of a CSV file as dictionaries; none if it does not exist."
    if not file.exists(): return []
    with open(file, newline="") as f: return list(csv.DictReader(f.readlines()[1:]))


def add_row(file, row, measured):
    "Append to a CSV file; its first line says what was measured, and where."
    new = not file.exists()
    with open(file, "a", newline="") as f:
        if new: f.write(f"# {measured}\n")
        writer = csv.DictWriter(f, row)
        if new: writer.writeheader()
        writer.writerow(row)


def shapes(n, seed, hard=False):
    "Samples of the embedded data set, drawn once per machine."
    folder = Path(tempfile.gettempdir())/"ssd_tutorial_benchmarks"
    return make_shapes(folder/f"shapes-{n}-{seed}{'hard' * hard}", n, seed, hard)


def learner(train, situation="shapes", model="ssd", seed=0, workers=None, cbs=(), dtype=None,
            vocab=None, **given):
    "What `ssd_train` would train on `train`, and its recipe."
    recipe = preset(model, situation, seed=seed, workers=workers, **given)
    kwargs = {} if dtype is None else dict(dtype=dtype)
    vocab = vocab or Vocab.from_samples(train)
    # nobody evaluates while training: one image to validate
    return recipe_learner(train, train[:1], vocab, recipe, cbs=cbs, **kwargs), recipe


def uses_bf16(learn):
    return any(type(cb).__name__ == "BFloat16" for cb in learn.cbs)


def precision(bf16): return "bf16" if bf16 else "float32"


def end_workers(learn):
    """End the processes that load now: garbage collection would do it later, in the time of
    somebody else, and wait 5 s for each."""
    for loader in (learn.dls.train, learn.dls.valid): loader._iterator = None


def trained(learn, recipe, test):
    "Train by the recipe and judge: seconds of training, and a report."
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe)
    seconds = time.perf_counter() - start
    end_workers(learn)
    vocab = learn.dls.train.dataset.vocab
    detector = Detector(learn.model, learn.loss_func.anchors, vocab, recipe.size)
    return seconds, evaluate(detector, test)


def ready_image(net, size):
    "Let `net` take images that are resized and normalised already."
    net.transform = GeneralizedRCNNTransform(
        size, size, [0.] * 3, [1.] * 3, size_divisible=1, fixed_size=(size, size),
        _skip_resize=True)
    return net


def short_norm(momentum=.1):
    "ssdlite's batch norm; its own momentum, .03, is too slow for a short training."
    return partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=momentum)


def ssdlite(n_classes, size, momentum=.1):
    "torchvision's ssdlite320 for images of `size` pixels, resized and normalised already."
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None,
                                        num_classes=n_classes, norm_layer=short_norm(momentum))
    return ready_image(net, size)


def any_image(net, size):
    "Let `net` resize and normalise by itself."
    net.transform = GeneralizedRCNNTransform(size, size, IMAGENET_MEAN, IMAGENET_STD,
                                             size_divisible=1, fixed_size=(size, size))
    return net


def ssdlite_loss(net, batch, bf16):
    device = next(net.parameters()).device
    x, boxes, labels = (t.to(device) for t in batch)
    targets = [dict(boxes=b[l > 0] * x.shape[-1], labels=l[l > 0])
               for b, l in zip(boxes, labels)]
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return sum(net(list(x), targets).values())


def seconds_of_steps(net, batch, bf16, steps):
    "Seconds of some training steps, without the first two, which are slower."
    for i in range(steps):
        if i == 2: start = time.perf_counter()
        ssdlite_loss(net, batch, bf16).backward()
    return time.perf_counter() - start


def in_layout(net, layout):
    "Bring weights and images into a memory format."
    # torchvision copies the images into a batch of the usual format
    net.backbone.register_forward_pre_hook(
        lambda body, args: (args[0].to(memory_format=layout),))
    return net.to(memory_format=layout)


def fastest(net, batch, steps=5):
    "Memory format and precision with which a step of ssdlite takes least time."
    times = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        for bf16 in {False, has_bf16(default_device())}:
            trial = in_layout(copy.deepcopy(net), layout)
            times[layout, bf16] = seconds_of_steps(trial, batch, bf16, steps)
    return min(times, key=times.get)


def one_cycle(lr):
    "Rate and momentum of fastai's one cycle, by the share of the training that is done."
    return combined_cos(.25, lr / 25, lr, lr / 1e5), combined_cos(.25, .95, .85, .95)


def fit_ssdlite(net, loader, seconds, lr=4e-3, trial=None):
    """AdamW and fastai's one cycle, stretched to the time; seconds, epochs, and what was chosen
    by the time that a batch takes, or the first `trial` images of it."""
    net.to(default_device()).train()
    layout, bf16 = fastest(net, [t[:trial] for t in next(iter(loader))])
    in_layout(net, layout)
    opt = torch.optim.AdamW(net.parameters(), lr, fused=True)
    rate, momentum = one_cycle(lr)
    step = 0
    start = time.perf_counter()
    while True:
        for batch in loader:
            took = time.perf_counter() - start
            if took >= seconds:
                return took, step / len(loader), f"{precision(bf16)}, {str(layout)[6:]}"
            done = took / seconds
            opt.param_groups[0].update(lr=rate(done), betas=(momentum(done), .999))
            ssdlite_loss(net, batch, bf16).backward()
            opt.step()
            opt.zero_grad()
            step += 1


@torch.no_grad()
def ssdlite_detections(net, samples, size, vocab):
    "`Detections` of ssdlite, from images resized as for training."
    net.eval()
    device = next(net.parameters()).device
    for s in samples:
        image = load_image(s.path)
        x = image_tensor(resize_image(np.asarray(image), size))
        r = net([x.to(device)])[0]
        boxes = (r["boxes"].cpu() / size * torch.tensor([*image.size] * 2)).numpy()
        names = [vocab[i] for i in r["labels"].tolist()]
        yield Detections(boxes, names, r["scores"].cpu().numpy(), None)


def trained_peer(net, learn, size, test, seconds, lr, trial=None):
    "Train a detector of torchvision's on our loader, and judge it by our scorer."
    took, epochs, chosen = fit_ssdlite(net, learn.dls.train, seconds, lr, trial)
    end_workers(learn)
    vocab = learn.dls.train.dataset.vocab
    detections = list(ssdlite_detections(net, test, size, vocab))
    return took, epochs, chosen, score_detections(detections, test, vocab)
