"""Time of the losses, forward and backward, beside one image at a time and torchvision's.

    python benchmarks/loss.py            # CPU, or CUDA where there is one

All are run in turn, round after round; the table shows medians and the medians of the ratios
per round. torchvision's is `SSD.compute_loss` with the matcher before it, as in `SSD.forward`:
softmax and hard negative mining instead of focal loss.
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

from ssd_tutorial.anchors import Anchors, SSDCoder, make_anchors
from ssd_tutorial.boxes import cxcywh_to_xyxy
from ssd_tutorial.loss import MultiBoxLoss, SSDLoss

sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
from plain import plain_loss  # noqa: E402

BATCH = {16: 64, 189: 64, 8732: 16}     # images in a batch, by the number of anchors
RATIOS_189 = ((1., 1.), (1., .5), (.5, 1.))
RATIOS_300 = ((1., 1.), (1.2, 1.2), (1.4, .7), (.7, 1.4), (1.7, .6), (.6, 1.7))
PER_CELL_300 = {38: 4, 19: 6, 10: 6, 5: 6, 3: 4, 1: 4}     # anchors, by cells along a side
COLUMNS = ["anchors", "batch", "`SSDLoss`", "`MultiBoxLoss`", "one by one", "torchvision",
           "one by one / `SSDLoss`", "one by one / `MultiBoxLoss`",
           "torchvision / `MultiBoxLoss`"]


def ssd300_anchors():
    "As many anchors as SSD300 has."
    parts = [make_anchors((g,), ratios=RATIOS_300[:k]) for g, k in PER_CELL_300.items()]
    return Anchors(torch.cat([p.cxcywh for p in parts]), torch.cat([p.cell for p in parts]))


def anchors_of(n):
    if n == 16: return make_anchors()
    if n == 189: return make_anchors((4, 2, 1), (.7, 1., 1.3), RATIOS_189)
    return ssd300_anchors()


def targets(bs, n_classes, device):
    "1 to 8 objects per image, padded to the fullest, as the loader gives them."
    gen = torch.Generator().manual_seed(0)
    boxes = cxcywh_to_xyxy(torch.rand(bs, 8, 4, generator=gen) * .4 + .3)
    labels = torch.randint(1, n_classes, (bs, 8), generator=gen)
    labels[torch.arange(8) >= torch.randint(1, 9, (bs, 1), generator=gen)] = 0
    boxes[labels == 0] = 0
    n = int((labels > 0).sum(1).max())
    return boxes[:, :n].to(device), labels[:, :n].to(device)


def timed(loss, batch, n=1):
    "Seconds for one forward and backward, over `n` in a row."
    start = time.perf_counter()
    for _ in range(n): torch.autograd.grad(loss(*batch), batch[0])
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


class OneAnchorPerCell:
    "All that torchvision's SSD asks of its generator of anchors before it runs."
    def num_anchors_per_location(self): return [1]


def torchvisions(anchors, n_classes):
    "torchvision's loss on our activations and targets, in pixels of a picture 300 wide."
    net = (torch.nn.Identity(), OneAnchorPerCell(), (300, 300), n_classes)
    ssd = SSD(*net, head=torch.nn.Identity())
    pixels = anchors.xyxy * 300

    def loss(preds, boxes, labels):
        given = []
        for b, l in zip(boxes, labels):
            given.append({"boxes": b[l > 0] * 300, "labels": l[l > 0]})
        matched = [ssd.proposal_matcher(box_iou(t["boxes"], pixels)) for t in given]
        outputs = {"cls_logits": preds[0], "bbox_regression": preds[1]}
        return sum(ssd.compute_loss(given, outputs, [pixels] * len(boxes), matched).values())
    return loss


def compare(n_anchors, rounds, device, n_classes=21):
    "A row of the table."
    bs = BATCH[n_anchors]
    anchors = anchors_of(n_anchors).to(device)
    ssd_anchors = Anchors(anchors.cxcywh, anchors.cell, SSDCoder())
    losses = {
        "article": SSDLoss(anchors, n_classes),
        "multi": MultiBoxLoss(ssd_anchors, n_classes),
        "plain": lambda *batch: plain_loss(*batch, anchors),
        "torchvision": torchvisions(anchors, n_classes)}
    sizes = (bs, n_anchors, n_classes), (bs, n_anchors, 4)
    preds = [torch.randn(size, device=device).requires_grad_() for size in sizes]
    batch = preds, *targets(bs, n_classes, device)
    values = losses["article"](*batch), losses["plain"](*batch)
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-4)

    # about a tenth of a second for each
    counts = {name: max(1, int(.1 / timed(f, batch, 3))) for name, f in losses.items()}
    times = []
    for _ in range(rounds):
        times.append({name: timed(f, batch, counts[name]) for name, f in losses.items()})

    def milliseconds(name): return f"{statistics.median(t[name] for t in times) * 1e3:.2f}"
    def ratio(a, b): return f"{statistics.median(t[a] / t[b] for t in times):.1f}"
    ratios = ratio("plain", "article"), ratio("plain", "multi"), ratio("torchvision", "multi")
    return n_anchors, bs, *map(milliseconds, losses), *ratios


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--rounds", type=int, default=20, help="rounds per row (20)")
    args = ap.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine()}; 21 classes, forward and backward, milliseconds\n")
    table(COLUMNS, [compare(n, args.rounds, device) for n in BATCH])
