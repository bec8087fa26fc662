"""A whole training step against the bare forward and backward of the same model on one fixed batch.

    python benchmarks/step.py

The step is what fastai does for `ssd_train --data shapes`: batch from the loader, forward, loss, backward, optimiser, callbacks.
The bare one calls the model on a batch that lies ready, and `backward` on the sum of the outputs' means; same weights, layout
and precision. Both run in turn, in blocks of steps; the table shows medians, and the median of the ratios per round.
"""
import argparse
import statistics
import time

import torch
from common import end_workers, learner, machine, shapes, table
from fastai.callback.core import Callback, CancelFitException

PARTS = ["data", "forward", "loss", "backward", "optimiser", "callbacks"]


def now():
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter()


class Blocks(Callback):
    "Clocks the learner's steps; after each block of them come as many bare ones. A block of each to warm up, then `rounds`."
    order = 1000      # after all other callbacks
    def __init__(self, steps, rounds): self.steps, self.rounds, self.left, self.whole, self.bare = steps, rounds, rounds + 1, [[]], []

    def before_train(self): self.mark = None      # an epoch's first batch is late; it does not count
    def before_batch(self): self.tick("data")
    def after_pred(self): self.tick("forward")
    def after_loss(self): self.tick("loss")
    def after_backward(self): self.tick("backward")
    def after_step(self): self.tick("optimiser")

    def tick(self, part):
        if not self.training or self.mark is None: return
        self.parts[part], self.mark = (t := now()) - self.mark, t

    def after_batch(self):
        if not self.training: return
        if self.mark is not None:
            self.tick("callbacks")
            self.whole[-1].append(self.parts)
        if len(self.whole[-1]) == self.steps: self.bare_block()
        self.parts, self.mark = {}, now()

    def bare_block(self):
        if not self.bare: self.batch = self.xb[0].clone()
        self.bare.append([self.bare_step() for _ in range(self.steps)])
        self.left -= 1
        if not self.left: raise CancelFitException
        self.whole.append([])

    def bare_step(self):
        start = now()
        means = sum(out.mean() for out in self.model(self.batch))
        middle = now()
        means.backward()
        self.model.zero_grad()
        return dict(forward=middle - start, backward=now() - middle)


def measure(args, workers):
    blocks = Blocks(args.steps, args.rounds)
    learn, opts = learner(shapes(args.n, 0), workers=workers, bf16=False if args.float32 else None, cbs=[blocks])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(100, opts["lr"])      # ends after the last round
    end_workers(learn)
    return opts, learn.model.bf16, blocks.whole[1:], blocks.bare[1:]      # without the warm-up


def main(args):
    runs = {f"{w} workers": measure(args, w) for w in args.workers}
    opts, bf16, *_ = next(iter(runs.values()))
    print(f"{machine()}; {opts['arch']}, {opts['size']} pixels, batches of {opts['bs']}, {'bf16' if bf16 else 'float32'}\n")
    total = lambda block: sum(sum(step.values()) for step in block)
    median = lambda blocks, of: statistics.median(of(step) for block in blocks for step in block) * 1e3
    every = lambda step: sum(step.values())
    table(["loader", "step ms", "bare ms", "step / bare"],
          [(name, f"{median(whole, every):.1f}", f"{median(bare, every):.1f}",
            f"{statistics.median(total(a) / total(b) for a, b in zip(whole, bare)):.3f}") for name, (*_, whole, bare) in runs.items()])
    table(["median ms", *PARTS], [(f"{name}{what}", *(f"{median(blocks, lambda s, p=p: s.get(p, 0)):.2f}" for p in PARTS))
                                  for name, (*_, whole, bare) in runs.items() for what, blocks in (("", whole), (", bare", bare))])


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="processes that load, a row for each number (0 2)")
    ap.add_argument("--steps", type=int, default=20, help="steps per block (20)")
    ap.add_argument("--rounds", type=int, default=10, help="blocks of each kind (10)")
    ap.add_argument("-n", type=int, default=1000, help="pictures (1000)")
    ap.add_argument("--float32", action="store_true", help="without bf16")
    main(ap.parse_args())
