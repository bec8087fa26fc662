"""Time of the losses, forward and backward, against the same loss one image at a time and against torchvision's.

    python benchmarks/loss.py            # CPU, or CUDA where there is one

All are run in turn, round after round; the table shows medians and the medians of the ratios per round. torchvision's
is `SSD.compute_loss` with the matcher before it, as in `SSD.forward`: softmax and hard negative mining instead of focal loss.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from common import machine, table

from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from ssd_tutorial.anchors import make_anchors
from ssd_tutorial.boxes import cxcywh_to_xyxy
from ssd_tutorial.loss import MultiBoxLoss, SSDLoss

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
        torch.autograd.grad(f(), preds)
    if device == "cuda": torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


def torchvisions(anchors, n_classes):
    "torchvision's loss on our activations and targets; it wants pixels, so the picture is 300 wide."
    gen = type("Anchors", (), {"num_anchors_per_location": lambda self: [1]})()
    ssd = SSD(torch.nn.Identity(), gen, (300, 300), n_classes, head=torch.nn.Identity())
    pixels = anchors.xyxy * 300

    def loss(preds, boxes, labels):
        targets = [dict(boxes=b[l > 0] * 300, labels=l[l > 0]) for b, l in zip(boxes, labels)]
        matched = [ssd.proposal_matcher(box_iou(t["boxes"], pixels)) for t in targets]
        return sum(ssd.compute_loss(targets, dict(cls_logits=preds[0], bbox_regression=preds[1]), [pixels] * len(boxes), matched).values())
    return loss


def compare(n_anchors, rounds, device, n_classes=21):
    kw, bs = SETS[n_anchors]
    anchors = (make_anchors(**kw) if kw is not None else ssd300_anchors()).to(device)
    boxes, labels = targets(bs, n_classes, device)
    preds = [torch.randn(bs, len(anchors), n, device=device).requires_grad_() for n in (n_classes, 4)]
    losses = SSDLoss(anchors, n_classes), MultiBoxLoss(anchors, n_classes), lambda *a: plain_loss(*a, anchors), torchvisions(anchors, n_classes)
    torch.testing.assert_close(losses[0](preds, boxes, labels), losses[2](preds, boxes, labels), rtol=1e-5, atol=1e-4)
    runs = [lambda loss=loss: loss(preds, boxes, labels) for loss in losses]
    counts = [max(1, int(.1 / timed(f, preds, device, 3))) for f in runs]  # about a tenth of a second each
    times = [[timed(f, preds, device, n) for f, n in zip(runs, counts)] for _ in range(rounds)]
    ms = [statistics.median(t) * 1e3 for t in zip(*times)]
    ratio = lambda a, b: statistics.median(t[a] / t[b] for t in times)
    return n_anchors, bs, *(f"{m:.2f}" for m in ms), *(f"{ratio(*r):.1f}" for r in [(2, 0), (2, 1), (3, 1)])


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--rounds", type=int, default=20, help="rounds per row (20)")
    args = ap.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine()}; 21 classes, forward and backward, milliseconds\n")
    table(["anchors", "batch", "`SSDLoss`", "`MultiBoxLoss`", "one by one", "torchvision",
           "one by one / `SSDLoss`", "one by one / `MultiBoxLoss`", "torchvision / `MultiBoxLoss`"], [compare(n, args.rounds, device) for n in SETS])
