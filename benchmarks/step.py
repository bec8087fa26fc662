"""A whole training step against the bare forward and backward of the same model on one batch.

    python benchmarks/step.py

The step is what fastai does for `ssd_train --data shapes`: batch from the loader, forward,
loss, backward, optimiser, callbacks. The bare one calls the model on a batch that lies ready,
and `backward` on the sum of the outputs' means; same weights, layout and precision. Both run in
turn, in blocks of steps; the table shows medians, and the median of the ratios per round.
"""
import argparse
import statistics
import time

import torch
from common import end_workers, learner, machine, precision, shapes, table, uses_bf16
from fastai.callback.core import Callback, CancelFitException

PARTS = ["data", "forward", "loss", "backward", "optimiser", "callbacks"]


def now():
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter()


class Blocks(Callback):
    """Clocks the learner's steps; after each block of them come as many bare ones.
    A block of each to warm up, then `rounds`."""
    order = 1000      # after all other callbacks

    def __init__(self, steps, rounds):
        self.steps = steps
        self.left = rounds + 1
        self.whole = [[]]
        self.bare = []

    def before_train(self): self.mark = None      # an epoch's first batch is late
    def before_batch(self): self.tick("data")
    def after_pred(self): self.tick("forward")
    def after_loss(self): self.tick("loss")
    def after_backward(self): self.tick("backward")
    def after_step(self): self.tick("optimiser")

    def tick(self, part):
        if not self.training or self.mark is None: return
        t = now()
        self.parts[part] = t - self.mark
        self.mark = t

    def after_batch(self):
        if not self.training: return
        if self.mark is not None:
            self.tick("callbacks")
            self.whole[-1].append(self.parts)
        if len(self.whole[-1]) == self.steps: self.bare_block()
        self.parts = {}
        self.mark = now()

    def bare_block(self):
        if not self.bare:
            self.batch = self.xb[0].clone()
            self.bf16 = uses_bf16(self.learn)
        self.bare.append([self.bare_step() for _ in range(self.steps)])
        self.left -= 1
        if not self.left: raise CancelFitException
        self.whole.append([])

    def bare_step(self):
        start = now()
        with torch.autocast(self.batch.device.type, torch.bfloat16, enabled=self.bf16):
            outs = self.model(self.batch)
        means = sum(out.float().mean() for out in outs)
        middle = now()
        means.backward()
        self.model.zero_grad()
        return dict(forward=middle - start, backward=now() - middle)


def measure(args, workers):
    blocks = Blocks(args.steps, args.rounds)
    dtype = torch.float32 if args.float32 else None
    learn, recipe = learner(shapes(args.n, 0), workers=workers, dtype=dtype,
                            cbs=[blocks])
    # ends after the last round
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(100, recipe.lr)
    end_workers(learn)
    # without the warm-up
    return dict(recipe=recipe, bf16=blocks.bf16, whole=blocks.whole[1:], bare=blocks.bare[1:])


def seconds(step): return sum(step.values())
def total(block): return sum(map(seconds, block))


def median_ms(blocks, of):
    steps = [of(step) for block in blocks for step in block]
    return statistics.median(steps) * 1e3


def ratio(run):
    "Of whole to bare: the median over the rounds."
    return statistics.median(total(a) / total(b) for a, b in zip(run["whole"], run["bare"]))


def parts_row(name, blocks):
    return name, *(f"{median_ms(blocks, lambda s, p=p: s.get(p, 0)):.2f}" for p in PARTS)


def main(args):
    runs = {f"{w} workers": measure(args, w) for w in args.workers}
    first = next(iter(runs.values()))
    recipe = first["recipe"]
    print(f"{machine()}; {recipe.arch}, {recipe.size} pixels, batches of {recipe.bs}, "
          f"{precision(first['bf16'])}\n")
    rows = [(name, f"{median_ms(run['whole'], seconds):.1f}",
             f"{median_ms(run['bare'], seconds):.1f}", f"{ratio(run):.3f}")
            for name, run in runs.items()]
    table(["loader", "step ms", "bare ms", "step / bare"], rows)
    rows = []
    for name, run in runs.items():
        rows += [parts_row(name, run["whole"]), parts_row(f"{name}, bare", run["bare"])]
    table(["median ms", *PARTS], rows)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--workers", type=int, nargs="*", default=[0, 2],
                    help="processes that load, a row for each number (0 2)")
    ap.add_argument("--steps", type=int, default=20, help="steps per block (20)")
    ap.add_argument("--rounds", type=int, default=10, help="blocks of each kind (10)")
    ap.add_argument("-n", type=int, default=1000, help="images (1000)")
    ap.add_argument("--float32", action="store_true", help="without bf16")
    main(ap.parse_args())
