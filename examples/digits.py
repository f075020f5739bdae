"""Handwritten digits, read row by row: `python -m examples.digits`.

scikit-learn's 1797 digits of 8×8 pixels; a cell sees a row of pixels a step, and a linear layer reads the digit off its
last hidden state. Everything is ours: the cells and their backward steps through time, and the optimizers. The linear
layer, the loss and the gradient of both are the few lines of NumPy below. Each cell is trained with each optimizer, and
with plain SGD for comparison.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import fusedstep
import numpy as np
from fusedstep.optim import Adagrad, Adam, RMSprop
from fusedstep.rnn import GRUCell, LSTMCell
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits

STEPS, PIXELS, CLASSES = 8, 8, 10
TEST = 360  # images held back; the split is the same in every run
GOAL = 0.95
MAX_NORM = 1.0


class SGD:
    """p ← p − lr·g: what the optimizers are compared with."""

    def __init__(self, params, lr):
        self.params, self.lr, self.state = params, lr, []

    def step(self, grads, *, max_norm):
        norm = np.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
        scale = np.float32(self.lr * min(1, max_norm / (norm + 1e-6)))
        for name, param in self.params.items():
            param[...] -= scale * grads[name]


CELLS = {
    "LSTM": LSTMCell,
    "peephole LSTM": lambda *sizes, rng: LSTMCell(*sizes, peephole=True, rng=rng),
    "GRU": GRUCell,
}
OPTIMIZERS = {
    "Adam": lambda params: Adam(params, lr=5e-3),
    "RMSprop": lambda params: RMSprop(params, lr=2e-3),
    "Adagrad": lambda params: Adagrad(params, lr=5e-2),
    "SGD": lambda params: SGD(params, lr=0.5),
}


@dataclass
class Digits:
    """Images (N, 8, 8), values from 0 to 1, and what they show (N,)."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def load(cls):
        """Training and test set."""
        images, labels = load_digits(return_X_y=True)
        images = (images.reshape(-1, STEPS, PIXELS) / 16).astype(np.float32)
        order = np.random.default_rng(0).permutation(len(images))
        return tuple(cls(images[part], labels[part]) for part in (order[TEST:], order[:TEST]))

    def batches(self, size, rng):
        """Yield the set once in random order; the rest of a division is left out."""
        order = rng.permutation(len(self.labels))
        for start in range(0, len(order) - size + 1, size):
            part = order[start : start + size]
            yield Digits(self.images[part], self.labels[part])


class Classifier:
    """A cell over the rows of an image, and a linear layer over its last hidden state."""

    def __init__(self, new_cell, hidden, seed):
        rng = np.random.default_rng(seed)
        self.cell = new_cell(PIXELS, hidden, rng=rng)
        bound = hidden**-0.5
        self.weight = rng.uniform(-bound, bound, (CLASSES, hidden)).astype(np.float32)
        self.bias = np.zeros(CLASSES, np.float32)

    @property
    def params(self):
        return {**self.cell.weights, "weight": self.weight, "bias": self.bias}

    def gradients(self, batch):
        """Return the mean cross-entropy over a batch, and its gradients by the parameters' names."""
        state, tapes = None, []
        for t in range(STEPS):
            state, tape = self.cell(batch.images[:, t], state, tape=True)
            tapes.append(tape)
        h = state[0] if isinstance(state, tuple) else state

        rows = np.arange(len(h))
        logits = h @ self.weight.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = -log_p[rows, batch.labels].mean()
        dlogits = np.exp(log_p)
        dlogits[rows, batch.labels] -= 1
        dlogits /= np.float32(len(h))

        grads = {name: np.zeros_like(weight) for name, weight in self.cell.weights.items()}
        dstate = (dlogits @ self.weight,)  # of h alone: c is read by no one after the last step
        for tape in reversed(tapes):
            g = self.cell.backward(tape, *dstate)
            dstate = g.state if isinstance(g.state, tuple) else (g.state,)
            for name, gradient in g.weights.items():
                grads[name] += gradient
        return float(loss), {**grads, "weight": dlogits.T @ h, "bias": dlogits.sum(axis=0)}

    def accuracy(self, digits):
        """Return the part of a set that is read right, by the frozen cell."""
        self.cell.freeze()
        state = self.cell(digits.images[:, 0])
        for t in range(1, STEPS):
            self.cell(digits.images[:, t], state, out=state)
        self.cell.unfreeze()
        h = state[0] if isinstance(state, tuple) else state
        return float(((h @ self.weight.T + self.bias).argmax(axis=1) == digits.labels).mean())


@dataclass
class Run:
    """One cell trained with one optimizer."""

    cell: str
    optimizer: str
    parameters: int
    bytes: int  # of parameters and optimizer states
    losses: list[float]  # mean over each epoch
    accuracies: list[float]  # on the test set after each epoch
    seconds: float  # in training

    @property
    def epochs_to_goal(self):
        return next((i + 1 for i, accuracy in enumerate(self.accuracies) if accuracy >= GOAL), None)


def train(cell, optimizer, *, epochs, hidden, seed, batch, on_epoch=lambda: None):
    """Train a cell with an optimizer, both by name, from the same weights and in the same order for the same seed."""
    training, test = Digits.load()
    model = Classifier(CELLS[cell], hidden, seed)
    opt = OPTIMIZERS[optimizer](model.params)
    rng = np.random.default_rng(seed)
    losses, accuracies, seconds = [], [], 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        epoch = []
        for part in training.batches(batch, rng):
            loss, grads = model.gradients(part)
            opt.step(grads, max_norm=MAX_NORM)
            epoch.append(loss)
        seconds += time.perf_counter() - start
        losses.append(float(np.mean(epoch)))
        accuracies.append(model.accuracy(test))
        on_epoch()
    states = [v for state in opt.state for v in state.values() if isinstance(v, np.ndarray)]
    arrays = [*model.params.values(), *states]
    return Run(
        cell,
        optimizer,
        parameters=sum(p.size for p in model.params.values()),
        bytes=sum(a.nbytes for a in arrays),
        losses=losses,
        accuracies=accuracies,
        seconds=seconds,
    )


def table(runs):
    """Tell what the runs reached, a row each."""
    result = Table(title=f"Handwritten digits, {TEST} test images", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("cell", "optimizer"):
        result.add_column(column, no_wrap=True)
    for column in ("test accuracy", f"epochs to {GOAL:.0%}", "seconds", "parameters", "bytes"):
        result.add_column(column, justify="right", min_width=max(map(len, column.split())))
    best = max(run.accuracies[-1] for run in runs)
    for previous, run in zip([None, *runs], runs, strict=False):
        if previous and previous.cell != run.cell:
            result.add_section()
        accuracy = run.accuracies[-1]
        result.add_row(
            run.cell,
            run.optimizer,
            f"[bold]{accuracy:.1%}" if accuracy == best else f"{accuracy:.1%}",
            str(run.epochs_to_goal or "–"),
            f"{run.seconds:.2f}",
            f"{run.parameters:,}",
            f"{run.bytes:,}",
        )
    return result


def plot(runs, path):
    """Draw loss and test accuracy over the epochs, a column a cell."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only where a picture is asked for

    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, len(CELLS), sharex=True, sharey="row")
    for column, cell in zip(axes.T, CELLS, strict=True):
        for run in runs:
            if run.cell == cell:
                epochs = range(1, len(run.losses) + 1)
                column[0].plot(epochs, run.losses, label=run.optimizer)
                column[1].plot(epochs, [100 * (1 - accuracy) for accuracy in run.accuracies])
        column[0].set(title=cell, yscale="log")
        column[1].set(xlabel="epoch", yscale="log")
        column[1].axhline(100 * (1 - GOAL), color="grey", linewidth=0.8, linestyle=":")
        for axis in column:
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("test error, %")
    axes[0, -1].legend()
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=64, help="hidden units of the cell")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves")
    options = parser.parse_args(arguments)
    training, _ = Digits.load()
    for name, most in (("epochs", np.inf), ("hidden", np.inf), ("batch", len(training.labels))):
        value = getattr(options, name)
        if not 1 <= value <= most:
            parser.error(f"--{name} must be from 1 to {most}, got {value}")

    console = Console()
    info = fusedstep.build_info()
    console.print(f"fusedstep {info['version']}, {info['isa']}, {fusedstep.num_threads()} threads")
    runs = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=len(CELLS) * len(OPTIMIZERS) * options.epochs)
        for cell in CELLS:
            for optimizer in OPTIMIZERS:
                progress.update(task, description=f"{cell}, {optimizer}")
                run = train(
                    cell,
                    optimizer,
                    epochs=options.epochs,
                    hidden=options.hidden,
                    seed=options.seed,
                    batch=options.batch,
                    on_epoch=lambda: progress.advance(task),
                )
                runs.append(run)
    console.print(table(runs))
    if options.plot:
        plot(runs, options.plot)
        console.print(f"drew {options.plot}")


if __name__ == "__main__":
    main()
