"""A slow training loop and its profile: `python -m examples.bottleneck`.

An LSTM reads scikit-learn's digits row by row, as in `examples.digits`, by a loop as one writes it first: float64, an
optimizer for each array, the cell called step by step, the loss in NumPy, and the test images one at a time. It is
profiled; the first advice of the profile that has a remedy here is taken; and again, until none is left.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import fusedstep
import numpy as np
from fusedstep import loss
from fusedstep.optim import Adam
from fusedstep.rnn import LSTM, LSTMCell, lstm_cell, lstm_cell_backward
from rich import box
from rich.console import Console
from rich.table import Table

from examples.digits import CLASSES, PIXELS, STEPS, Digits

LEARNING_RATE = 5e-3


@dataclass(frozen=True)
class Way:
    """How the loop does its work: each False is slower."""

    float32: bool = False
    one_optimizer: bool = False
    whole_sequences: bool = False  # in training
    frozen: bool = False  # in the test
    tested_whole: bool = False  # all images and steps of the test in one call
    fused_loss: bool = False


# What in an advice asks for which change, and what it is called.
REMEDIES = {
    "float64 moves twice the bytes": ("float32", "float32"),
    "pass the parameters as one list": ("one_optimizer", "one optimizer"),
    "runs a sequence forward, and backward": ("whole_sequences", "rnn.LSTM in training"),
    "freeze() packs them once": ("frozen", "freeze() in the test"),
    "where the inputs are known ahead": ("tested_whole", "rnn.LSTM in the test"),
    "losses and products in NumPy": ("fused_loss", "loss.cross_entropy"),
}


def softmax_loss(logits, labels):
    """Cross entropy and its gradient, in NumPy."""
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), gradient / logits.dtype.type(len(logits))


class Classifier:
    """An LSTM over the rows of an image, and a linear layer over its last hidden state."""

    def __init__(self, way, hidden, seed):
        self.way = way
        self.dtype = np.float32 if way.float32 else np.float64
        rng = np.random.default_rng(seed)
        drawn = LSTMCell(PIXELS, hidden, dtype=np.float64, rng=rng).weights
        self.rnn = LSTM(PIXELS, hidden, dtype=self.dtype, rng=0).load({f"{name}_l0": w for name, w in drawn.items()})
        self.weights = {name.removesuffix("_l0"): weight for name, weight in self.rnn.weights.items()}
        self.cell = LSTMCell(PIXELS, hidden, dtype=self.dtype, rng=0)  # for the test; it takes the weights over then
        self.weight = rng.uniform(-(hidden**-0.5), hidden**-0.5, (CLASSES, hidden)).astype(self.dtype)
        self.bias = np.zeros(CLASSES, self.dtype)
        self.params = {**self.weights, "weight": self.weight, "bias": self.bias}
        names = [tuple(self.params)] if way.one_optimizer else [(name,) for name in self.params]
        self.optimizers = [(own, Adam([self.params[name] for name in own], lr=LEARNING_RATE)) for own in names]

    def forward(self, images):
        """Return the last hidden state, and what backward needs."""
        if self.way.whole_sequences:
            _, (h, _), tape = self.rnn.forward(images.swapaxes(0, 1))
            return h[0], tape
        state, tapes = None, []
        for t in range(STEPS):
            state, tape = lstm_cell(images[:, t], state, **self.weights, tape=True)
            tapes.append(tape)
        return state[0], tapes

    def backward(self, tapes, dh):
        """Return the gradients of the weights."""
        if self.way.whole_sequences:
            found = self.rnn.backward(tapes, None, (dh[None], np.zeros_like(dh[None]))).weights
            return {name.removesuffix("_l0"): gradient for name, gradient in found.items()}
        dstate, grads = (dh,), {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        for tape in reversed(tapes):
            g = lstm_cell_backward(tape, *dstate)
            dstate = g.state
            for name, gradient in g.weights.items():
                grads[name] += gradient
        return grads

    def gradients(self, batch, matmul=np.matmul):
        """Return the mean cross entropy over a batch, and its gradients by the parameters' names."""
        h, tapes = self.forward(batch.images)
        logits = matmul(h, self.weight.T) + self.bias
        value, dlogits = (loss.cross_entropy if self.way.fused_loss else softmax_loss)(logits, batch.labels)
        grads = self.backward(tapes, matmul(dlogits, self.weight))
        return value, {**grads, "weight": matmul(dlogits.T, h), "bias": dlogits.sum(axis=0)}

    def step(self, grads):
        """Update the parameters."""
        for names, optimizer in self.optimizers:
            optimizer.step([grads[name] for name in names])

    def last_states(self, images):
        """Return the last hidden state of each image, without a tape."""
        if self.way.tested_whole:
            return self.rnn(images.swapaxes(0, 1))[1][0][0]
        for name, weight in self.weights.items():
            self.cell.weights[name][...] = weight
        if self.way.frozen:
            self.cell.freeze()
        found = []
        for image in images:
            state = None
            for pixels in image:
                state = self.cell(pixels, state)
            found.append(state[0])
        self.cell.unfreeze()
        return np.stack(found)

    def accuracy(self, digits, matmul=np.matmul):
        """Return the part of a set that is read right."""
        logits = matmul(self.last_states(digits.images), self.weight.T) + self.bias
        return float((logits.argmax(axis=1) == digits.labels).mean())


def epoch(model, training, test, rng, batch, prof=None):
    """Train on every image once, then test. Return the mean loss and the accuracy."""
    matmul = prof.matmul if prof else np.matmul
    part_of = prof.range if prof else nullcontext
    losses = []
    for part in training.batches(batch, rng):
        with part_of("gradients"):
            value, grads = model.gradients(part, matmul)
        with part_of("step"):
            model.step(grads)
        losses.append(value)
    with part_of("test"):
        accuracy = model.accuracy(test, matmul)
    return float(np.mean(losses)), accuracy


@dataclass
class Stage:
    """A way, what it took, and what its profile advised."""

    change: str
    way: Way
    seconds: float  # of an epoch, the fastest of some
    loss: float
    accuracy: float
    prof: fusedstep.profiler.Profile
    advice: list[str]


def run(change, way, *, epochs, hidden, batch, seed):
    """Time some epochs, and profile one more."""
    training, test = Digits.load()
    dtype = np.float32 if way.float32 else np.float64
    training, test = (Digits(part.images.astype(dtype), part.labels) for part in (training, test))
    model, rng = Classifier(way, hidden, seed), np.random.default_rng(seed)
    times, found = [], (0.0, 0.0)
    for _ in range(epochs):
        start = time.perf_counter()
        found = epoch(model, training, test, rng, batch)
        times.append(time.perf_counter() - start)
    with fusedstep.profile() as prof:
        epoch(model, training, test, rng, batch, prof)
    return Stage(change, way, min(times), *found, prof, prof.to_dict()["advice"])


def remedy(stage):
    """Return the way and the name of the change that the first advice with one asks for; None where there is none."""
    for advice in stage.advice:
        for words, (name, change) in REMEDIES.items():
            if words in advice and not getattr(stage.way, name):
                return replace(stage.way, **{name: True}), change
    return None


def improve(*, epochs, hidden, batch, seed, on_stage: Callable[[Stage], None] = lambda _: None):
    """Take one advice after the other."""
    stages = [run("as written", Way(), epochs=epochs, hidden=hidden, batch=batch, seed=seed)]
    on_stage(stages[0])
    while len(stages) <= len(fields(Way)) and (found := remedy(stages[-1])):
        way, change = found
        stages.append(run(change, way, epochs=epochs, hidden=hidden, batch=batch, seed=seed))
        on_stage(stages[-1])
    return stages


def table(stages):
    """Tell what each change brought, a row each."""
    result = Table(title="An epoch, each advice taken in turn", box=box.SIMPLE, padding=(0, 1, 0, 0))
    result.add_column("change", no_wrap=True)
    for title in ("ms", "× before", "× at first", "loss", "accuracy", "outside"):
        result.add_column(title, justify="right", no_wrap=True)
    for before, stage in zip([stages[0], *stages], stages, strict=False):
        outside = stage.prof.to_dict()["outside"] / stage.prof.seconds
        result.add_row(
            stage.change,
            f"{stage.seconds * 1e3:.1f}",
            f"{before.seconds / stage.seconds:.2f}",
            f"{stages[0].seconds / stage.seconds:.2f}",
            f"{stage.loss:.3f}",
            f"{stage.accuracy:.1%}",
            f"{outside:.0%}",
        )
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.bottleneck", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="timed for each stage")
    parser.add_argument("--hidden", type=int, default=32, help="hidden units of the cell")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--roofline", type=Path, metavar="FILE.png", help="draw the loop as it was written")
    options = parser.parse_args(arguments)
    for name in ("epochs", "hidden", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    console = Console()

    def show(stage):
        console.rule(stage.change)
        stage.prof.table()

    stages = improve(
        epochs=options.epochs, hidden=options.hidden, batch=options.batch, seed=options.seed, on_stage=show
    )
    console.print(table(stages))
    if options.roofline:
        stages[0].prof.roofline(options.roofline)
        console.print(f"drew {options.roofline}")


if __name__ == "__main__":
    main()
