"Detections from rows, and a detector that knows beforehand what it will predict."
import numpy as np
import torch
from PIL import Image

from ssd_tutorial.anchors import Anchors
from ssd_tutorial.data import Vocab
from ssd_tutorial.predict import (
    SCORE_THRESH, Detections, non_max_suppression, suppress_across_classes
)

VOCAB = Vocab('abcd')


def detections(rows):
    "Detections of one image from rows of box, label and score."
    boxes = np.array([box for box, *_ in rows], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for *_, score in rows], dtype=np.float32)
    return Detections(boxes, [label for _, label, _ in rows], scores, None)


class Oracle:
    "Gives every image the same boxes in [0,1], and scores of all anchors."
    vocab = VOCAB

    def __init__(self, boxes, scores, anchors):
        self.boxes = boxes
        self.scores = scores
        self.anchors = anchors
        self.calls = []

    def raw(self, paths):
        n = len(paths)
        self.calls.append(n)
        images = [Image.open(p) for p in paths]
        return self.boxes.expand(n, -1, -1), self.scores.expand(n, -1, -1), images

    def predict(self, paths, score_thresh=SCORE_THRESH, nms_thresh=.5, across_thresh=.8):
        boxes, scores, images = self.raw(paths)
        kept = non_max_suppression(boxes, scores, score_thresh, nms_thresh)
        found = []
        for candidates, image in zip(kept, images):
            box, label, score = suppress_across_classes(*candidates, across_thresh)
            pixels = (box * torch.tensor([*image.size] * 2)).numpy()
            names = [self.vocab[i] for i in label.tolist()]
            found.append(Detections(pixels, names, score.numpy(), image))
        return found


def noisy_oracle(seed=0, n=40):
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=g) * .6 + .2
    cxcywh = torch.cat([centre, torch.rand(n, 2, generator=g) * .4 + .3], 1)
    anchors = Anchors(cxcywh, torch.full((n, 2), .1))
    boxes = (anchors.xyxy + torch.randn(n, 4, generator=g) * .03).clamp(0, 1)
    return Oracle(boxes, torch.rand(n, 4, generator=g) ** 2, anchors)
