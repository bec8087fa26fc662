"""What the benchmarks share: pictures, a learner with the settings of `ssd_train`, torchvision's ssdlite as a peer, a clock, tables."""
import copy
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
from fastai.torch_core import default_device, set_seed
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ssd_tutorial.recipes import _loaders, _model_and_loss, _settings
from ssd_tutorial.readers import load_image
from ssd_tutorial.data import IMAGENET_MEAN, IMAGENET_STD, Vocab, image_tensor, resize_image
from ssd_tutorial.model import has_bf16
from ssd_tutorial.predict import Detections
from ssd_tutorial.shapes import make_shapes
from ssd_tutorial.train import ssd_learner


class Clock(defaultdict):
    "Seconds by name, spent in functions that `of` has wrapped."
    def __init__(self): super().__init__(float)

    def of(self, name, f):
        def clocked(*args, **kwargs):
            start = time.perf_counter()
            try: return f(*args, **kwargs)
            finally: self[name] += time.perf_counter() - start
        return clocked


def machine():
    "Versions, device and threads, in one line."
    info = Path("/proc/cpuinfo")
    names = [l.partition(":")[2].strip() for l in (info.read_text().splitlines() if info.exists() else []) if l.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, NumPy {np.__version__}; {device}"
            f" ({names[0] if names else platform.machine()}, {os.cpu_count()} cores), {torch.get_num_threads()} threads")


def table(columns, rows):
    "Print a markdown table."
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for r in rows: print("| " + " | ".join(map(str, r)) + " |")
    print(flush=True)


def shapes(n, seed):
    "Samples of the embedded data set, drawn once per machine."
    return make_shapes(Path(tempfile.gettempdir())/"ssd_tutorial_benchmarks"/f"shapes-{n}-{seed}", n, seed)


def learner(train, data="shapes", model="ssd", workers=None, seed=0, bf16=None, cbs=(), **given):
    "What `ssd_train` would train on `train` from scratch, and its settings; validation is cut down to one picture."
    opts, _ = _settings(model, data, True, given)
    vocab = Vocab.from_samples(train)
    set_seed(seed)
    net, loss = _model_and_loss(model, opts, False, vocab, train)
    bf16 = has_bf16(default_device()) if bf16 is None else bf16
    return ssd_learner(_loaders(train, train[:1], vocab, opts, workers, seed), net, loss, bf16=bf16, cbs=cbs), opts


def end_workers(learn):
    "End the processes that load now: garbage collection would do it later, in the time of somebody else, and wait 5 s for each."
    for loader in (learn.dls.train, learn.dls.valid): loader._iterator = None


def ssdlite(n_classes, size, momentum=.1):
    "torchvision's ssdlite320 for pictures of `size` pixels that are resized and normalised already."
    norm = partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=momentum)      # its own momentum, .03, is too slow for a short training
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=n_classes, norm_layer=norm)
    net.transform = GeneralizedRCNNTransform(size, size, [0.] * 3, [1.] * 3, size_divisible=1, fixed_size=(size, size), _skip_resize=True)
    return net


def any_picture(net, size):
    "Let `net` resize and normalise by itself."
    net.transform = GeneralizedRCNNTransform(size, size, IMAGENET_MEAN, IMAGENET_STD, size_divisible=1, fixed_size=(size, size))
    return net


def ssdlite_loss(net, batch, bf16):
    x, boxes, labels = (t.to(next(net.parameters()).device) for t in batch)
    targets = [dict(boxes=b[l > 0] * x.shape[-1], labels=l[l > 0]) for b, l in zip(boxes, labels)]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16): return sum(net(list(x), targets).values())


def fastest(net, batch, steps=5):
    "Memory format and precision with which a step of ssdlite takes least time."
    times = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        for bf16 in {False, has_bf16(default_device())}:
            trial = copy.deepcopy(net).to(memory_format=layout)
            for i in range(steps):
                if i == 2: start = time.perf_counter()      # the first two are slower
                ssdlite_loss(trial, batch, bf16).backward()
            times[layout, bf16] = time.perf_counter() - start
    return min(times, key=times.get)


def fit_ssdlite(net, loader, seconds, lr=4e-3):
    "AdamW and fastai's one cycle, stretched to the time there is; seconds, epochs, and what has been chosen."
    net.to(default_device()).train()
    layout, bf16 = fastest(net, next(iter(loader)))
    net.to(memory_format=layout)
    opt, step, start = torch.optim.AdamW(net.parameters(), lr, fused=True), 0, time.perf_counter()
    rate, momentum = combined_cos(.25, lr / 25, lr, lr / 1e5), combined_cos(.25, .95, .85, .95)
    while True:
        for batch in loader:
            done = (time.perf_counter() - start) / seconds
            if done >= 1: return time.perf_counter() - start, step / len(loader), f"{'bf16' if bf16 else 'float32'}, {str(layout)[6:]}"
            opt.param_groups[0].update(lr=rate(done), betas=(momentum(done), .999))
            ssdlite_loss(net, batch, bf16).backward()
            opt.step(); opt.zero_grad()
            step += 1


@torch.no_grad()
def ssdlite_found(net, samples, size, vocab):
    "`Detections` of ssdlite, from pictures resized as for training."
    net.eval()
    for s in samples:
        image = load_image(s.path)
        x = image_tensor(resize_image(np.asarray(image), size))
        r = net([x.to(next(net.parameters()).device)])[0]
        boxes, scores = (r["boxes"].cpu() / size * torch.tensor([*image.size] * 2)).numpy(), r["scores"].cpu().numpy()
        yield Detections(boxes, [vocab[i] for i in r["labels"].tolist()], scores, None)
