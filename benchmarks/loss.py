"""Time of the batch loss, forward and backward, against the same loss one image at a time.

    python benchmarks/loss.py            # CPU, or CUDA where there is one

Both are run in turn, round after round; the table shows medians and the median of the ratios per round.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.boxes import cxcywh_to_xyxy
from ssd_tutorial.loss import SSDLoss

sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
from plain import plain_loss  # noqa: E402

SETS = {16: (dict(), 64),
        189: (dict(grids=(4, 2, 1), zooms=(.7, 1., 1.3), ratios=((1., 1.), (1., .5), (.5, 1.))), 64),
        8732: (None, 16)}


def ssd300_anchors():
    "As many anchors as SSD300 has: 4 per cell on the grids 38, 3 and 1, 6 on 19, 10 and 5."
    parts = [make_anchors((g,), (1.,), ((1., 1.), (1.2, 1.2), (1.4, .7), (.7, 1.4), (1.7, .6), (.6, 1.7))[:k])
             for g, k in [(38, 4), (19, 6), (10, 6), (5, 6), (3, 4), (1, 4)]]
    return type(parts[0])(torch.cat([p.cxcywh for p in parts]), torch.cat([p.cell for p in parts]))


def targets(bs, n_classes, device):
    "1 to 8 objects per image, padded to the fullest, as the loader gives them."
    gen = torch.Generator().manual_seed(0)
    boxes = cxcywh_to_xyxy(torch.rand(bs, 8, 4, generator=gen) * .4 + .3)
    labels = torch.randint(1, n_classes, (bs, 8), generator=gen)
    labels[torch.arange(8) >= torch.randint(1, 9, (bs, 1), generator=gen)] = 0
    boxes[labels == 0] = 0
    n = int((labels > 0).sum(1).max())
    return boxes[:, :n].to(device), labels[:, :n].to(device)


def timed(f, preds, device, n=1):
    "Seconds for one forward and backward, over `n` in a row."
    start = time.perf_counter()
    for _ in range(n):
        for p in preds: p.grad = None
        f().backward()
    if device == "cuda": torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


def compare(n_anchors, rounds, device, n_classes=21):
    kw, bs = SETS[n_anchors]
    anchors = (make_anchors(**kw) if kw is not None else ssd300_anchors()).to(device)
    boxes, labels = targets(bs, n_classes, device)
    preds = [torch.randn(bs, len(anchors), n, device=device).requires_grad_() for n in (n_classes, 4)]
    loss = SSDLoss(anchors, n_classes)
    batch, plain = lambda: loss(preds, boxes, labels), lambda: plain_loss(preds, boxes, labels, anchors)
    torch.testing.assert_close(batch(), plain(), rtol=1e-5, atol=1e-4)
    counts = [max(1, int(.1 / timed(f, preds, device, 3))) for f in (batch, plain)]  # about a tenth of a second each
    times = [[timed(f, preds, device, n) for f, n in zip((batch, plain), counts)] for _ in range(rounds)]
    b, p = (statistics.median(t) * 1e3 for t in zip(*times))
    ratio = statistics.median(p / b for b, p in times)
    print(f"| {n_anchors:5d} | {bs:3d} | {b:9.2f} | {p:12.2f} | {ratio:6.1f} |", flush=True)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--rounds", type=int, default=20, help="rounds per row (20)")
    args = ap.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, 21 classes, forward and backward\n")
    print("| anchors | batch | batch loss ms | one by one ms | ratio |\n|---|---|---|---|---|")
    for n in SETS: compare(n, args.rounds, device)
