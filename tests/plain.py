"The library's work written out one image, or one box, at a time: slow, obvious, and its judge."
import torch
import torch.nn.functional as F

from ssd_tutorial.boxes import cxcywh_to_xyxy


def plain_iou(a, b):
    lt = torch.max(a[:, None, :2], b[None, :, :2])
    rb = torch.min(a[:, None, 2:], b[None, :, 2:])
    inter = (rb - lt).clamp(min=0).prod(2)
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return inter / (area_a[:, None] + area_b[None] - inter)


def plain_match(anchors, boxes, labels, thresh=.4, bg=None):
    """Class of every anchor, -1 between `bg` and `thresh`; row of its object, and the overlap.

    The overlap is 1.99 where the match is forced.
    """
    overlap = plain_iou(boxes, cxcywh_to_xyxy(anchors.cxcywh))
    value, index = overlap.max(0)
    for i, a in enumerate(overlap.argmax(1).tolist()):
        value[a] = 1.99
        index[a] = i
    target = torch.where(value >= thresh, labels[index], 0)
    if bg is not None: target[(value >= bg) & (value < thresh)] = -1
    return target, index, value


def plain_decode(acts, anchors):
    t = torch.tanh(acts)
    centre = anchors.cxcywh[:, :2] + t[:, :2] / 2 * anchors.cell
    size = anchors.cxcywh[:, 2:] * (1 + t[:, 2:] / 2)
    return cxcywh_to_xyxy(torch.cat([centre, size], 1))


def plain_encode(boxes, anchors, variances=(.1, .2)):
    "SSD's offsets of boxes with an area, one for each anchor."
    rows = []
    for (x1, y1, x2, y2), (cx, cy, w, h) in zip(boxes.tolist(), anchors.cxcywh.tolist()):
        dx = ((x1 + x2) / 2 - cx) / w / variances[0]
        dy = ((y1 + y2) / 2 - cy) / h / variances[0]
        dw = torch.tensor((x2 - x1) / w).log() / variances[1]
        dh = torch.tensor((y2 - y1) / h).log() / variances[1]
        rows.append([dx, dy, dw, dh])
    return torch.tensor(rows).view(-1, 4)


def plain_class_loss(acts, labels, alpha=.25, gamma=1.):
    "Anchors with the label -1 do not count."
    n_classes = acts.shape[1]
    counted = labels >= 0
    # no output for background, which is column 0
    t = F.one_hot(labels[counted], n_classes)[:, 1:].to(acts.dtype)
    x = acts[counted, 1:]
    p = x.sigmoid().detach()
    pt = p * t + (1 - p) * (1 - t)
    w = (alpha * t + (1 - alpha) * (1 - t)) * (1 - pt)**gamma
    return F.binary_cross_entropy_with_logits(x, t, w, reduction="sum") / n_classes


def plain_hardest(acts, labels, ratio=3):
    """Labels of one image with -1 for all but the worst background anchors.

    There are `ratio` of these for each positive one, or as for one if there is none.
    """
    labels = labels.clone()
    x = acts[:, 1:]
    zeros = torch.zeros_like(x)
    wrong = F.binary_cross_entropy_with_logits(x, zeros, reduction='none').sum(1)
    background = (labels == 0).nonzero().flatten().tolist()
    n = ratio * max(1, int((labels > 0).sum()))
    worst = sorted(background, key=lambda a: -wrong[a].item())[:n]
    for a in background: labels[a] = 0 if a in worst else -1
    return labels


def plain_loss(preds, boxes, labels, anchors, thresh=.4):
    "Sum over the images of class loss and box loss; an image without objects has no box loss."
    total = 0.
    for classes, acts, b, l in zip(*preds, boxes, labels):
        real = b[:, 2] > b[:, 0]
        b = b[real]
        l = l[real]
        if not len(b):
            total = total + plain_class_loss(classes, l.new_zeros(len(classes)))
            continue
        target, index, _ = plain_match(anchors, b, l, thresh)
        pos = target > 0
        box_loss = (plain_decode(acts, anchors)[pos] - b[index[pos]]).abs().mean()
        total = total + plain_class_loss(classes, target) + box_loss
    return total


def plain_multibox_loss(preds, boxes, labels, anchors, thresh=.5, bg=.4,
                        class_loss=plain_class_loss, encode=plain_encode):
    "Class loss and smooth L1 of the offsets of all images, over the number of positives."
    total = 0.
    n = 0
    for classes, acts, b, l in zip(*preds, boxes, labels):
        real = b[:, 2] > b[:, 0]
        b = b[real]
        l = l[real]
        target = l.new_zeros(len(classes))
        if len(b): target, index, _ = plain_match(anchors, b, l, thresh, bg)
        total = total + class_loss(classes, target) * classes.shape[1]
        n += int((target > 0).sum())
        if not len(b): continue
        want = encode(b[index], anchors)
        for a in (target > 0).nonzero().flatten():
            total = total + F.smooth_l1_loss(acts[a], want[a])
    return total / max(1, n)


def plain_suppress(boxes, scores, score_thresh=.3, nms_thresh=.5):
    "One picture: for each class the rows that stay, best score first."
    kept = {}
    for c in range(scores.shape[1]):
        sure = [a for a in range(len(boxes)) if scores[a, c] >= score_thresh]
        left = sorted(sure, key=lambda a: -scores[a, c].item())
        kept[c + 1] = []
        while left:
            best, *rest = left
            kept[c + 1].append(best)
            ious = plain_iou(boxes[[best]], boxes[rest])[0].tolist()
            left = [a for a, iou in zip(rest, ious) if not iou > nms_thresh]
    return kept
