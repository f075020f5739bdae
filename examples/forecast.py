"""Forecasts of sunspots and of CO2 in the air, one step and many steps ahead: `python -m examples.forecast`.

statsmodels' yearly sunspots (1700 to 2008), and its CO2 over Mauna Loa (1958 to 2001), weeks averaged to months. Two
networks learn each series from its past alone, a stacked GRU with dropout and an LSTM with peepholes: through time,
with AdamW under a warm-up and a cosine, until the validation years improve no more. Then they are streamed, a step a
year or month: over what was observed, and from every point of the test years on over their own forecasts. The linear
layer that reads a forecast off h, and the loss, are the few lines of NumPy below.

The last value, the season before and a linear regression on lags stand beside them; the regression sees the same past
on the same scale. What is chosen (epochs, lags) is chosen on the validation years. The test years are only measured.
"""

import argparse
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import fusedstep
import numpy as np
from fusedstep.optim import AdamW, CosineWarmupLR
from fusedstep.rnn import GRU, LSTM
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from statsmodels.datasets import co2, sunspots

LAGS = range(1, 61)  # an autoregression's, to choose from
WINDOW, BATCH = 64, 16  # steps that a gradient goes back through, and windows that it is a mean over
STEPS, WARMUP, EPOCHS, PATIENCE = 8, 5, 200, 40  # steps an epoch; epochs: to warm up, at most, without a better one
WEIGHT_DECAY, MAX_NORM = 1e-2, 1.0
RUNS = 3  # of a network, from other weights: what they reach differs
NEXT_SHOWN = 60  # forecasts of the next value in the picture


# ---- data


@dataclass
class Series:
    """Observations: the first for training, those from `validation` on to choose by, those from `test` on to test.

    Models see `z`, the series' signal standardised by the training part. The signal is the root of a count, whose
    spread grows with it, or the change from value to value where the level only rises.
    """

    name: str
    unit: str
    step: str  # between two observations
    times: np.ndarray  # (N,) years
    values: np.ndarray  # (N,) in units
    season: int  # steps
    horizon: int  # steps ahead to forecast
    changes: bool  # whether the signal is the changes, otherwise the roots
    validation: int
    test: int

    @classmethod
    def load(cls):
        """Return the series by name."""
        years, counts = sunspots.load_pandas().data.to_numpy().T
        split = np.searchsorted(years, (1910, 1950))
        spots = cls("Sunspots", "sunspot number", "year", years, counts, 11, 12, False, *split)

        months = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()  # five early months are missing
        years = months.index.year.to_numpy() + (months.index.month.to_numpy() - 0.5) / 12
        split = np.searchsorted(years, (1984, 1991))
        air = cls("CO2 over Mauna Loa", "CO2, ppm", "month", years, months.to_numpy(), 12, 24, True, *split)
        return {"sunspots": spots, "CO2": air}

    @cached_property
    def signal(self):
        """Roots or changes (N,); the change to the first value, which is unknown, is 0."""
        return np.diff(self.values, prepend=self.values[0]) if self.changes else np.sqrt(self.values)

    @cached_property
    def scale(self):
        """Mean and deviation over the training part."""
        training = self.signal[: self.validation]
        return training.mean(), training.std()

    @cached_property
    def z(self):
        """What models see, (N,)."""
        mean, deviation = self.scale
        return ((self.signal - mean) / deviation).astype(np.float32)

    @property
    def origins(self):
        """The steps after which the test part is forecast, (K,): each value of it is once the next."""
        return np.arange(self.test - 1, len(self.values) - 1)

    def restore(self, z, origins):
        """Turn the z (K, S) that follow each origin into units."""
        mean, deviation = self.scale
        signal = z * deviation + mean
        return self.values[origins, None] + signal.cumsum(axis=1) if self.changes else np.maximum(signal, 0) ** 2

    def rmse(self, paths, origins, axis=None):
        """Return the error of paths (K, S) in units, over all of them or with `axis=0` by the step ahead."""
        ahead = origins[:, None] + 1 + np.arange(paths.shape[1])
        truth = np.append(self.values, np.nan)[np.minimum(ahead, len(self.values))]
        return np.sqrt(np.nanmean((paths - truth) ** 2, axis=axis))


# ---- forecasters: paths(series, origins) are the values (K, horizon) expected after each origin


class LastValue:
    """What was last, stays."""

    def paths(self, series, origins):
        return np.repeat(series.values[origins, None], series.horizon, axis=1)


class SeasonBefore:
    """What was a season before comes again, or for z of changes its changes do."""

    def paths(self, series, origins):
        ago = origins[:, None] + 1 - series.season + np.arange(series.horizon) % series.season
        return series.restore(series.z[ago], origins)


class Autoregression:
    """z by least squares on the z before it in the training part, as many as serve the validation part best."""

    def __init__(self, series):
        loss = {lags: self._fit(series, lags) for lags in LAGS}
        self.lags = min(loss, key=loss.get)
        self._fit(series, self.lags)

    def _fit(self, series, lags):
        """Fit, and return the validation loss."""
        z = series.z.astype(np.float64)
        past = np.lib.stride_tricks.sliding_window_view(z[:-1], lags)  # the oldest first
        rows, following = np.column_stack([past, np.ones(len(past))]), z[lags:]
        training, validation = slice(series.validation - lags), slice(series.validation - lags, series.test - lags)
        self.weight = np.linalg.lstsq(rows[training], following[training])[0]
        return np.mean((rows[validation] @ self.weight - following[validation]) ** 2)

    def paths(self, series, origins):
        z = np.zeros((len(origins), self.lags + series.horizon))
        z[:, : self.lags] = series.z[origins[:, None] + 1 - self.lags + np.arange(self.lags)]
        for step in range(series.horizon):
            z[:, self.lags + step] = z[:, step : step + self.lags] @ self.weight[:-1] + self.weight[-1]
        return series.restore(z[:, self.lags :], origins)


class Network:
    """A module over z, and a linear layer that reads the next z off its h and z itself."""

    def __init__(self, new_module, seed):
        rng = np.random.default_rng(seed)
        self.module = new_module(rng)
        bound = self.module.hidden_size**-0.5
        self.weight = rng.uniform(-bound, bound, self.module.hidden_size).astype(np.float32)
        self.direct, self.bias = np.zeros(1, np.float32), np.zeros(1, np.float32)

    @property
    def params(self):
        return {**self.module.weights, "weight": self.weight, "direct": self.direct, "bias": self.bias}

    def read(self, h, z):
        return h @ self.weight + z * self.direct + self.bias

    def gradients(self, windows, seed):
        """Return the mean square error of the next z over windows (T + 1, B), and its gradients by name."""
        z, following = windows[:-1], windows[1:]
        h, _, tape = self.module.forward(z[..., None], seed=seed)
        error = self.read(h, z) - following
        derror = error * np.float32(2 / error.size)
        g = self.module.backward(tape, derror[..., None] * self.weight)
        own = {"weight": np.tensordot(derror, h, 2), "direct": np.vdot(derror, z), "bias": derror.sum()}
        grads = {name: np.reshape(gradient, self.params[name].shape) for name, gradient in own.items()}
        return float(np.mean(error**2)), {**g.weights, **grads}

    def validation_loss(self, series):
        z = series.z[: series.test]
        h, _ = self.module(z[:-1, None])
        error = self.read(h, z[:-1]) - z[1:]
        return float(np.mean(error[series.validation - 1 :] ** 2))

    def stream(self, series):
        """Take z step by step; return h (N, H) after each, and what the stream's states (N, layers, H) were."""
        stream = self.module.stream()
        h = np.empty((len(series.z), self.module.hidden_size), np.float32)
        states = [np.empty((len(h), *state[:, 0].shape), np.float32) for state in arrays(stream)]
        for t in range(len(h)):
            stream.step(series.z[t : t + 1], out=h[t])
            for kept, state in zip(states, arrays(stream), strict=True):
                kept[t] = state[:, 0]
        y, _ = self.module(series.z[:, None])
        assert np.array_equal(h, y), "h of the stream differs from that of the module"
        return h, states

    def paths(self, series, origins):
        h, states = self.stream(series)
        stream = self.module.stream(len(origins))  # a row an origin, which goes on over its own forecasts
        for state, kept in zip(arrays(stream), states, strict=True):
            state[...] = kept[origins].swapaxes(0, 1)
        z, h, last = np.empty((series.horizon, len(origins)), np.float32), h[origins], series.z[origins]
        for step in range(series.horizon):
            last = z[step] = self.read(h, last)
            stream.step(z[step, :, None], out=h)
        return series.restore(z.T, origins)


def arrays(stream):
    """List a stream's states: h, or h and c."""
    return stream.state if isinstance(stream.state, tuple) else (stream.state,)


NETWORKS = {  # of a generator, and the learning rate
    "stacked GRU": (lambda rng: GRU(1, 32, 2, dropout=0.4, rng=rng), 2e-3),
    "peephole LSTM": (lambda rng: LSTM(1, 32, peephole=True, rng=rng), 3e-3),
}


@dataclass
class Training:
    """A network as it was after the epoch that served the validation part best."""

    network: Network
    losses: list[float]  # mean over each epoch
    validation: list[float]  # after each epoch
    seconds: float

    @property
    def epochs(self):
        return int(np.argmin(self.validation)) + 1


def train(name, series, *, epochs, seed):
    """Train a network, by name, on random windows of the training part."""
    start = time.perf_counter()
    new_module, lr = NETWORKS[name]
    network, rng = Network(new_module, seed), np.random.default_rng(seed)
    optimizer = AdamW(network.params, lr=lr, weight_decay=WEIGHT_DECAY)
    schedule = CosineWarmupLR(optimizer, max(epochs, WARMUP + 1) * STEPS, WARMUP * STEPS)
    windows = np.lib.stride_tricks.sliding_window_view(series.z[: series.validation], WINDOW + 1)
    training, best = Training(network, [], [], 0.0), {}
    for _ in range(epochs):
        losses = []
        for _ in range(STEPS):
            batch = np.ascontiguousarray(windows[rng.integers(len(windows), size=BATCH)].T)
            loss, grads = network.gradients(batch, int(rng.integers(2**63)))
            optimizer.step(grads, max_norm=MAX_NORM)
            schedule.step()
            losses.append(loss)
        training.losses.append(float(np.mean(losses)))
        training.validation.append(network.validation_loss(series))
        waited = len(training.losses) - training.epochs
        if waited == 0:
            best = {key: p.copy() for key, p in network.params.items()}
        elif waited == PATIENCE:
            break
    for key, p in network.params.items():
        p[...] = best[key]
    training.seconds = time.perf_counter() - start
    return training


# ---- what came of it


@dataclass
class Result:
    """What a forecaster's runs expect of the test part; a baseline has one run and no trainings."""

    name: str
    series: Series
    paths: list[np.ndarray]  # (K, horizon) each, in units
    trainings: list[Training]

    def errors(self, ahead):
        """Return each run's error over the first `ahead` steps."""
        return [self.series.rmse(paths[:, :ahead], self.series.origins) for paths in self.paths]


def compare(series, *, epochs, runs, on_run=lambda: None):
    """Forecast a series' test part with every baseline and network."""
    autoregression = Autoregression(series)
    baselines = {
        "last value": LastValue(),
        f"{series.season} {series.step}s before": SeasonBefore(),
        f"linear, {autoregression.lags} lags": autoregression,
    }
    results = [Result(name, series, [model.paths(series, series.origins)], []) for name, model in baselines.items()]
    for name in NETWORKS:
        trainings = []
        for seed in range(runs):
            trainings.append(train(name, series, epochs=epochs, seed=seed))
            on_run()
        paths = [training.network.paths(series, series.origins) for training in trainings]
        results.append(Result(name, series, paths, trainings))
    return results


def spread(values):
    """Write the mean, and the deviation where there are several."""
    digits = 1 if np.mean(values) >= 10 else 3
    return f"{np.mean(values):.{digits}f}" + (f" ± {np.std(values):.{digits}f}" if len(values) > 1 else "")


def table(results):
    """Tell the errors on a series' test part, a row each."""
    series = results[0].series
    first, last = series.times[series.test], series.times[-1]
    spans = {f"next {series.step}": 1, f"next {series.horizon} {series.step}s": series.horizon}
    best = {span: min(results, key=lambda r: np.mean(r.errors(ahead))) for span, ahead in spans.items()}
    result = Table(
        title=f"{series.name}, {int(first)} to {int(last)}: root mean square error, {series.unit}",
        caption="least: " + ", ".join(f"{r.name} ({span})" for span, r in best.items()),
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    result.add_column("forecast", no_wrap=True)
    for column in (*spans, "epochs", "parameters", "seconds"):
        result.add_column(column, justify="right", no_wrap=True)
    for previous, r in zip([None, *results], results, strict=False):
        if r.trainings and previous and not previous.trainings:
            result.add_section()
        cells = []
        for span, ahead in spans.items():
            errors = spread(r.errors(ahead))
            cells.append(f"[bold]{errors}" if r is best[span] else errors)
        if r.trainings:
            cells.append(f"{np.mean([training.epochs for training in r.trainings]):.0f}")
            cells.append(f"{sum(p.size for p in r.trainings[0].network.params.values()):,}")
            cells.append(f"{np.mean([training.seconds for training in r.trainings]):.1f}")
        result.add_row(r.name, *cells)
    return result


def plot(results, path):
    """Draw each series' test part in a column: a step ahead, from a few origins on, and the error by steps ahead."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only where a picture is asked for

    figure = Figure(figsize=(14, 11), layout="constrained")
    axes = figure.subplots(3, len(results))
    for column, rows in zip(axes.T, results, strict=True):
        series, origins = rows[0].series, rows[0].series.origins
        starts = range(0, len(origins), series.horizon)
        recent = origins[-min(len(origins), NEXT_SHOWN) :]
        for axis, first in zip(column, (recent[0] + 1, origins[0]), strict=False):
            axis.plot(series.times[first:], series.values[first:], ".:", color="black", lw=0.8, ms=5, label="observed")
            axis.set(xlabel="year", ylabel=series.unit)
        for r, colour in zip(rows, ("0.75", "0.45", "C2", "C0", "C1"), strict=True):
            look = {"color": colour, "lw": 1.4}
            if r.trainings or r is rows[2]:  # the naive ones would hide the rest
                column[0].plot(series.times[recent + 1], r.paths[0][-len(recent) :, 0], **look)
                for k in starts:
                    times = series.times[origins[k] :][: series.horizon + 1]
                    fan = np.append(series.values[origins[k]], r.paths[0][k])
                    column[1].plot(times, fan[: len(times)], **look)
            by_step = np.mean([series.rmse(paths, origins, axis=0) for paths in r.paths], axis=0)
            column[2].plot(np.arange(1, series.horizon + 1), by_step, ".-", label=r.name, **look)
        for k in starts:
            column[1].axvline(series.times[origins[k]], color="0.6", lw=0.8, ls="--")
        column[0].set_title(f"{series.name}: the next {series.step}, forecast from all before it")
        column[1].set_title(f"{series.horizon} {series.step}s from each dashed line on (of a network, its first run)")
        column[2].set_title("Error over all test years, mean of the runs")
        column[2].set(xlabel=f"{series.step}s ahead", ylabel=f"RMSE: {series.unit}", ylim=(0, None))
        handles = [*column[0].lines[:1], *column[2].lines]
        column[2].legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
        for axis in column:
            axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.forecast", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="train for a few epochs, to see that it runs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the forecasts")
    options = parser.parse_args(arguments)
    epochs, runs = (3, 1) if options.smoke else (EPOCHS, RUNS)

    console = Console()
    info = fusedstep.build_info()
    console.print(f"fusedstep {info['version']}, {info['isa']}, {fusedstep.num_threads()} threads")
    all_series = Series.load().values()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=len(all_series) * len(NETWORKS) * runs)
        results = [
            compare(series, epochs=epochs, runs=runs, on_run=lambda: progress.advance(task)) for series in all_series
        ]
    for rows in results:
        console.print(table(rows))
    console.print("streamed step by step, every network gave the h of its run over the whole series bit for bit")
    if options.plot:
        plot(results, options.plot)
        console.print(f"drew {options.plot}")


if __name__ == "__main__":
    fusedstep.set_num_threads(1)  # steps this small gain nothing by a second
    main()
