"The library's work written out one image, or one box, at a time: slow, obvious, and its judge."
import torch
import torch.nn.functional as F

from ssd_tutorial.boxes import cxcywh_to_xyxy


def plain_iou(a, b):
    lt, rb = torch.max(a[:, None, :2], b[None, :, :2]), torch.min(a[:, None, 2:], b[None, :, 2:])
    inter = (rb - lt).clamp(min=0).prod(2)
    area = lambda r: (r[:, 2] - r[:, 0]) * (r[:, 3] - r[:, 1])
    return inter / (area(a)[:, None] + area(b)[None] - inter)


def plain_match(anchors, boxes, labels, thresh=.4, bg=None):
    "Class of every anchor, -1 between `bg` and `thresh`; row of its object, and the overlap, 1.99 where it is forced."
    overlap = plain_iou(boxes, cxcywh_to_xyxy(anchors.cxcywh))
    value, index = overlap.max(0)
    for i, a in enumerate(overlap.argmax(1).tolist()): value[a], index[a] = 1.99, i
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
        rows.append([((x1 + x2) / 2 - cx) / w / variances[0], ((y1 + y2) / 2 - cy) / h / variances[0],
                     torch.tensor((x2 - x1) / w).log() / variances[1], torch.tensor((y2 - y1) / h).log() / variances[1]])
    return torch.tensor(rows).view(-1, 4)


def plain_class_loss(acts, labels, alpha=.25, gamma=1.):
    "Anchors with the label -1 do not count."
    n_classes, asked = acts.shape[1], labels >= 0
    t, x = F.one_hot(labels[asked], n_classes)[:, 1:].to(acts.dtype), acts[asked, 1:]
    p = x.sigmoid().detach()
    pt = p * t + (1 - p) * (1 - t)
    w = (alpha * t + (1 - alpha) * (1 - t)) * (1 - pt)**gamma
    return F.binary_cross_entropy_with_logits(x, t, w, reduction="sum") / n_classes


def plain_hardest(acts, labels, ratio=3):
    "Labels of one image with -1 for all but the worst background anchors, `ratio` for each positive one, or for one if there is none."
    labels, wrong = labels.clone(), F.binary_cross_entropy_with_logits(acts[:, 1:], torch.zeros_like(acts[:, 1:]), reduction='none').sum(1)
    background = (labels == 0).nonzero().flatten().tolist()
    worst = sorted(background, key=lambda a: -wrong[a].item())[:ratio * max(1, int((labels > 0).sum()))]
    for a in background: labels[a] = 0 if a in worst else -1
    return labels


def plain_loss(preds, boxes, labels, anchors, thresh=.4):
    "Sum over the images of class loss and box loss; an image without objects has no box loss."
    total = 0.
    for classes, acts, b, l in zip(*preds, boxes, labels):
        b, l = b[b[:, 2] > b[:, 0]], l[b[:, 2] > b[:, 0]]
        if not len(b):
            total = total + plain_class_loss(classes, l.new_zeros(len(classes)))
            continue
        target, index, _ = plain_match(anchors, b, l, thresh)
        pos = target > 0
        box_loss = (plain_decode(acts, anchors)[pos] - b[index[pos]]).abs().mean()
        total = total + plain_class_loss(classes, target) + box_loss
    return total


def plain_multibox_loss(preds, boxes, labels, anchors, thresh=.5, bg=.4, class_loss=plain_class_loss, encode=plain_encode):
    "Focal loss and smooth L1 of the offsets, summed over all anchors of all images, over the number of positive anchors."
    total, n = 0., 0
    for classes, acts, b, l in zip(*preds, boxes, labels):
        b, l = b[b[:, 2] > b[:, 0]], l[b[:, 2] > b[:, 0]]
        target, index = l.new_zeros(len(classes)), None
        if len(b): target, index, _ = plain_match(anchors, b, l, thresh, bg)
        total, n = total + class_loss(classes, target) * classes.shape[1], n + int((target > 0).sum())
        if index is None: continue
        pos, want = target > 0, encode(b[index], anchors)
        total = total + sum(F.smooth_l1_loss(acts[a], want[a]) for a in pos.nonzero().flatten())
    return total / max(1, n)


def plain_suppress(boxes, scores, score_thresh=.3, iou_thresh=.5):
    "One picture: for each class the rows that stay, best score first."
    kept = {}
    for c in range(scores.shape[1]):
        left = sorted([a for a in range(len(boxes)) if scores[a, c] >= score_thresh], key=lambda a: -scores[a, c].item())
        kept[c + 1] = []
        while left:
            best, *rest = left
            kept[c + 1].append(best)
            left = [a for a in rest if not plain_iou(boxes[best][None], boxes[a][None]).item() > iou_thresh]
    return kept
