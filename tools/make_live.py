"""Train the small network of the live page, and write it as a browser reads it.

    python tools/make_live.py RUN

The weights go to docs/_static/live/live.onnx, in 16 bits; what they are, and how good, to
live.json beside it; nbs/images/live.jpg shows what it finds. The folder RUN keeps the drawn
images and the detector in 32 bits.
"""
import hashlib
import json
import platform
import random
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from ssd_tutorial.anchors import SSDCoder, make_anchors, suggest_anchors
from ssd_tutorial.data import Vocab, denormalize, normalize, split_samples
from ssd_tutorial.evaluate import evaluate
from ssd_tutorial.model import grid_sizes
from ssd_tutorial.predict import SCORE_THRESH, Detector, forget_sources
from ssd_tutorial.readers import atomic_write
from ssd_tutorial.recipes import fit_recipe, preset, recipe_learner
from ssd_tutorial.shapes import background, draw_shape, make_shapes

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT/"docs"/"_static"/"live"
PICTURE = ROOT/"nbs"/"images"/"live.jpg"
# A quarter of the weights of the smallest body of the presets, so more images and epochs
RECIPE = preset("ssd", "shapes", arch="shufflenet_v2_x0_5", epochs=40)
# Another seed than the demo's: its validation images, on which this network is judged, too,
# are none of these
TRAIN = {"n": 4000, "seed": 1}
MADE_WITH = "torch", "torchvision", "fastai", "onnx", "onnxscript", "onnxruntime", "numpy"


class Rows(nn.Module):
    "A trained model that takes an image `(1,3,S,S)` in [0,1]; gives class logits and offsets."
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image): return self.model(normalize(image))


def shorten(weight):
    "Put 16 bits in place of a weight's 32; gives the node that lengthens it again, or None."
    values = numpy_helper.to_array(weight)
    if values.dtype != np.float32 or values.size < 64: return None
    long_name = weight.name
    weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{long_name}_short"))
    return onnx.helper.make_node("Cast", [weight.name], [long_name], to=onnx.TensorProto.FLOAT)


def write_onnx(detector, path):
    "The network without decoding and suppression, which the page shows step by step."
    image = torch.zeros(1, 3, detector.size, detector.size)
    names = {"input_names": ["image"], "output_names": ["logits", "offsets"]}
    program = torch.onnx.export(Rows(detector.model).eval(), (image,), **names, dynamo=True,
                                verbose=False)
    forget_sources(program.model)
    model = program.model_proto
    casts = [node for weight in model.graph.initializer if (node := shorten(weight))]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    with atomic_write(path) as part: part.write_bytes(model.SerializeToString())


class OnnxRows(nn.Module):
    "The served file as the model of a `Detector`."
    def __init__(self, path):
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        # a detector asks where the weights of its model are
        self.here = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        images = denormalize(x).numpy()
        rows = [self.session.run(None, {"image": image[None]}) for image in images]
        return [torch.from_numpy(np.concatenate(part)) for part in zip(*rows)]


def served_detector(folder=LIVE):
    "What the live page runs, as a detector in Python."
    facts = json.loads((folder/"live.json").read_text())
    coder = SSDCoder(tuple(facts["variances"]))
    anchors = make_anchors(facts["grids"], facts["zooms"], facts["ratios"], coder)
    model = OnnxRows(folder/"live.onnx")
    return Detector(model, anchors, Vocab(facts["classes"]), facts["size"])


def demo_split(folder):
    "The demo's training and validation samples."
    return split_samples(make_shapes(folder, 1000), seed=RECIPE.seed)


def network_facts(detector, train):
    "What a page has to know to use the network."
    anchors = suggest_anchors(train, grid_sizes(detector.model, detector.size))
    variances = anchors.pop("coder").variances
    return {"classes": detector.vocab.names[1:], "size": detector.size, **anchors,
            "variances": variances, "score_thresh": SCORE_THRESH, "nms_thresh": .5,
            "across_thresh": .8}


def file_facts(path):
    data = path.read_bytes()
    weights = onnx.load(path).graph.initializer
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
            "weights": sum(numpy_helper.to_array(w).size for w in weights)}


def quality(detector, valid):
    "Figures on the validation images, from the file that is served."
    report = evaluate(detector, valid)
    return {"n_valid": len(valid), "map50": round(report.map50, 4), "map": round(report.map, 4)}


def write_picture(detector, path, side=512):
    "The scene that the page begins with, and what is found in it: for readers without scripts."
    image = background(random.Random(2), side, side)
    shapes = {"heart": ((60, 70, 235, 235), "#e62a2a", 4),
              "star": ((280, 50, 450, 230), "#ead61c", -6),
              "arrow": ((155, 280, 360, 450), "#2f5bf0", 3)}
    for name, (box, color, degrees) in shapes.items():
        draw_shape(image, name, box, color, degrees)
    fig, ax = plt.subplots(figsize=(5, 5))
    detector.predict(image).show(ax)
    fig.tight_layout(pad=0)
    with atomic_write(path) as part: fig.savefig(part, format="jpg", dpi=100)
    plt.close(fig)


def write_facts(facts, folder):
    with atomic_write(folder/"live.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n")


def main(run):
    start = time.time()
    train = make_shapes(run/"train", **TRAIN)
    _, valid = demo_split(run/"shapes")
    vocab = Vocab.from_samples(train)
    learn = recipe_learner(train, valid, vocab, RECIPE)
    with learn.no_bar(): fit_recipe(learn, RECIPE)
    detector = Detector(learn.model.cpu(), learn.loss_func.anchors, vocab, RECIPE.size)
    detector.save(run/"detector.pt")
    LIVE.mkdir(exist_ok=True)
    write_onnx(detector, LIVE/"live.onnx")
    facts = network_facts(detector, train)
    write_facts(facts, LIVE)
    facts |= file_facts(LIVE/"live.onnx")
    facts |= quality(served_detector(), valid)
    facts["map50_in_32_bits"] = round(evaluate(detector, valid).map50, 4)
    versions = {"python": platform.python_version()} | {k: version(k) for k in MADE_WITH}
    facts |= {"command": "make live", "train": TRAIN, "recipe": asdict(RECIPE),
              "minutes": round((time.time() - start) / 60, 1), "versions": versions}
    write_facts(facts, LIVE)
    write_picture(served_detector(), PICTURE)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__": main(Path(sys.argv[1]))
