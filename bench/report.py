"""The tables."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.contenders import CONTENDERS
from bench.growth import SYMBOLS, Point
from bench.runner import NOISY, NUMPY_SLOWERS, OURS, Outcome, Settings, Timing
from bench.timing import Spread

TITLES = {
    "optim": "Optimizers: one step",
    "cells": "Cells: one step",
    "sequences": "Sequences: one call",
    "streams": "Streams: one step a call",
    "losses": "Losses: value and gradient of a mean",
}
WIDE = 165  # columns from which each peer has a column of its own
LARGE = 1 << 28  # bytes of arrays from which huge pages are reported
ON_CPU = {
    "optim": "ceiling: the same loop over the same arrays without arithmetic, with the same options. "
    "torch: fused, for RMSprop foreach.",
    "cells": "ceiling: FMAs on registers, all threads; at batch 1 the weights' way from the caches limits, not this. "
    "torch: cells in inference mode. ONNX Runtime: one node, inputs and outputs bound.",
    "sequences": "ceiling: as for cells. Lengths vary: every second row is half as long; torch packs and pads. "
    "torch: nn.LSTM and nn.GRU in inference mode, or forward and autograd. NumPy: a loop over the steps. "
    "Plain fusedstep: without the option that ends the row's name. Taped: a forward call of training.",
    "streams": "kHz: a step begins so often, and the process sleeps between them. Threads and weights: fusedstep's; "
    "its peer has the run's and float32. ONNX Runtime: one node, inputs and outputs bound, two states in turns.",
    "losses": "ceiling: the same arrays read and the gradient written, by the same threads. Roofline: the longer of "
    "that, of the operations that the profiler counts at the peak of FMAs, and of divisions and roots at the divider's "
    "rate. torch: forward and backward. NumPy: the gradient is written by hand.",
}
ON_CUDA = {
    "optim": "Seconds between CUDA events. Ceiling: a copy on the device that moves the same bytes. As a graph: the "
    "step captured once and replayed. torch: fused, for RMSprop foreach; its graph: capturable.",
    "cells": "Seconds between CUDA events. torch: cells in inference mode; without TF32, as CuPy's products.",
    "sequences": "Seconds between CUDA events. torch: nn.LSTM and nn.GRU by cuDNN without TF32, in inference mode, or "
    "forward and autograd.",
}
CAPTIONS = {"cpu": ON_CPU, "cuda": ON_CUDA}


def duration(spread: Spread) -> str:
    """Format a time and half the distance between its quartiles."""
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if spread.median >= s), (1e-9, "ns"))
    return f"{number(spread.median / scale)} {unit} ±{spread.relative:.0%}"


def number(value: float) -> str:
    """Format with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def target(outcome: Outcome) -> Text:
    """Set the targets beside what was reached: each by itself where every one counts."""
    every = outcome.case.every
    found = [(to, limit, outcome.ratio(to)) for to, limit in outcome.case.targets.items()]
    reached = {to: got.median <= limit for to, limit, got in found if got}
    lines: list[Text] = []
    for to, limit, got in found:
        if got is None:
            continue
        text = "or " * (not every and bool(lines))
        if to == "seconds":
            text += f"{number(got.median * 1e6)} ≤ {number(limit * 1e6)} µs"
        else:
            text += f"{got.median:.3f} ≤ {limit:.3f} × {to}"
        lines.append(Text(text, "green" if (reached[to] if every else any(reached.values())) else "yellow"))
    return stack(*lines)


def own(outcome: Outcome) -> list[Text]:
    """Return our time, rate, fractions of the ceiling and of the roofline, and the predicted time over it."""
    case, ours = outcome.case, outcome.ours
    rate = "" if ours is None or case.overhead else f"{number(case.work / ours.time.median / 1e9)} {case.unit}"
    told = Text(f"predicted × {outcome.told.median:.2f}" if outcome.told else "")
    found = [(name, outcome.ratio(name)) for name in ("ceiling", "roofline")]
    share = Text(", ").join(Text(f"{1 / got.median:.0%} of {name}") for name, got in found if got)
    return [time(outcome.timings[OURS]), Text(rate), share, told]


def time(timing: Timing) -> Text:
    if not timing.samples:
        return Text(fault(timing), "bold red")
    return Text(duration(timing.time) + "*" * (timing.scaled_by != 1))


def fault(timing: Timing) -> str:
    return "FAILED" if timing.failure else f"WRONG: {timing.error:.1e}"


def relative(outcome: Outcome, name: str) -> Text:
    """Return our time relative to a contender's."""
    ratio = outcome.ratio(name)
    if ratio is None:
        return Text()
    return Text(f"× {ratio.median:.3f} ±{ratio.relative:.0%}", "" if ratio.median <= 1 else "yellow")


def stack(*texts: Text) -> Text:
    return Text("\n").join(text for text in texts if text)


def table(kind: str, outcomes: Sequence[Outcome], width: int, device: str = "cpu") -> Table:
    """Return a column for each peer, or, on a narrow terminal, one for all of them."""
    peers = [name for name in CONTENDERS if name != OURS and any(name in o.timings for o in outcomes)]
    wide = width >= WIDE
    titles = [OURS, *(CONTENDERS[name].title for name in peers), "target"] if wide else [OURS, "peers"]
    view = Table(title=TITLES[kind], caption=CAPTIONS[device][kind], title_justify="left", caption_justify="left")
    view.show_lines = not wide
    view.add_column("float32")
    for title in titles:
        view.add_column(title, justify="right", no_wrap=True)
    for outcome in outcomes:
        if outcome.skipped:
            view.add_row(outcome.case.name, Text(f"skipped: {outcome.skipped}", "yellow"))
            continue
        present = [name for name in peers if name in outcome.timings]
        if wide:
            cells = {name: stack(time(outcome.timings[name]), relative(outcome, name)) for name in present}
            own_time, rate, fraction, told = own(outcome)
            mine = stack(own_time, Text(", ").join(text for text in (rate, fraction) if text), told)
            view.add_row(outcome.case.name, mine, *(cells.get(name, "") for name in peers), target(outcome))
        else:
            lines = [
                Text(" ").join([Text(CONTENDERS[name].title), time(outcome.timings[name]), relative(outcome, name)])
                for name in present
            ]
            view.add_row(outcome.case.name, stack(*own(outcome), target(outcome)), stack(*lines))
    return view


def further_tensor(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the seconds that each further tensor of one element costs a step, by contender."""
    steps = {len(o.case.shapes): o for o in outcomes if o.case.group == "optim" and o.case.overhead}
    if len(steps) < 2:
        return {}
    few, many = min(steps), max(steps)
    return {
        name: (timing.time.median - steps[few].timings[name].time.median) / (many - few)
        for name, timing in steps[many].timings.items()
        if timing.samples and name in steps[few].timings and steps[few].timings[name].samples
    }


def within(ratio: float) -> bool:
    """Tell whether a predicted time is at most 30 % off."""
    return 1 / 1.3 <= ratio <= 1.3


def predictions(outcomes: Sequence[Outcome]) -> str:
    """Count the cases whose predicted time is within 30 %, and name the others; "" where nothing was predicted."""
    told = {o.case.name: o.told.median for o in outcomes if o.told}
    if not told:
        return ""
    at_first = [o.ours.facts["predicted_at_first"] / o.ours.time.median for o in outcomes if o.ours and o.told]
    off = "; ".join(f"{name}: {ratio:.2f}" for name, ratio in told.items() if not within(ratio))
    return (
        "Predicted × is what the model of fusedstep.cost tells over our time, round by round; of the machine's figures "
        "those that it takes were measured in the same rounds, as means, like our time. "
        f"Within 30 %: {sum(map(within, told.values()))} of {len(told)}{off and f'; further off: {off}'}. "
        f"With the figures as they were before the first case: {sum(map(within, at_first))} of {len(told)}."
    )


def header(console: Console, machine: dict[str, Any], facts: dict[str, Any], settings: Settings) -> None:
    build = facts[OURS]
    console.print(
        f"{machine['cpu']}, {machine['processors']} processors; threads: {settings.threads}; "
        f"fusedstep {build.get('version')} ({build.get('isa')}, {build.get('compiler')}), commit {machine['commit']}"
    )
    versions = [f"{CONTENDERS[name].title} {fact['version']}" for name, fact in facts.items() if "version" in fact]
    console.print(f"Python {machine['python']}; {'; '.join(versions[1:])}")
    if "gpu" in build:
        console.print(
            f"{build['gpu']}, multiprocessors: {build['multiprocessors']}; driver for CUDA {build['driver']}; "
            f"CuPy {build['cupy']}"
        )
    for blas in facts.get("numpy", {}).get("blas", []):
        console.print(
            f"NumPy's BLAS: {blas['internal_api']} {blas['version']}, kernel {blas['architecture']}, "
            f"threads: {blas['num_threads']}"
        )


def warnings(console: Console, environment: dict[str, str], machine: dict[str, Any]) -> None:
    for name in set(NUMPY_SLOWERS) & set(environment):
        console.print(
            f"[yellow]{name}={environment[name]} is set here. It chooses NumPy's BLAS kernel and slows NumPy; "
            "the contenders run without it."
        )
    if machine["load"] > machine["processors"] / 2:
        console.print(f"[yellow]The machine is busy (load {machine['load']:.1f}): times will be off.")


def growth(points: Sequence[Point]) -> Table:
    """Return a row for each point: times, their ratio, and the memory of forward and backward."""
    names = list(dict.fromkeys(name for point in points for name in point.training.timings))
    caption = "MiB: the most that forward + backward takes beyond parameters and input, in a process of its own."
    view = Table(title="Growth of an LSTM", caption=caption, title_justify="left", caption_justify="left")
    view.add_column("float32")
    for name in names:
        for what in ("inference", "forward + backward", "MiB"):
            view.add_column(f"{CONTENDERS[name].title}\n{what}", justify="right", no_wrap=True)
    for point in points:
        cells: list[Text] = []
        for name in names:
            for outcome in (point.inference, point.training):
                timing = outcome.timings.get(name)  # none where the case was skipped
                cells += [
                    stack(time(timing), relative(outcome, name) if name != OURS else Text()) if timing else Text()
                ]
            cells.append(Text(number(point.memory[name] / 2**20) if name in point.memory else ""))
        view.add_row(f"{SYMBOLS[point.axis]}={point.value}", *cells)
    return view


def show(console: Console, outcomes: Sequence[Outcome], isa: str, device: str = "cpu") -> None:
    for kind in TITLES:
        chosen = [outcome for outcome in outcomes if outcome.case.table == kind]
        if chosen:
            console.print(table(kind, chosen, console.width, device))
    console.print("× our time over theirs, round by round: below 1 we are faster. ± half the interquartile range.")
    if device == "cpu":
        console.print("* pure Python is timed at a size that it can finish, and scaled by the work.")
    if any(outcome.case.targets for outcome in outcomes):
        console.print(f"Targets are for 2 cores with AVX-512; this ran {isa}.")
    if told := predictions(outcomes):
        console.print(told)
    if noisy := [o.case.name for o in outcomes if o.noisy]:
        console.print(f"Of twice as many rounds, as our time varied by more than ±{NOISY:.0%}: {'; '.join(noisy)}.")
    further = further_tensor(outcomes)
    if further:
        each = ", ".join(f"{CONTENDERS[name].title} {number(seconds * 1e9)} ns" for name, seconds in further.items())
        console.print(f"Each further tensor in an Adam step: {each} (target for {OURS}: 40 ns).")
    large = [(o.case.name, o.ours.facts.get("huge_pages")) for o in outcomes if o.ours and o.case.memory >= LARGE]
    shares = [f"{name}: {share:.0%}" for name, share in large if share is not None]
    if shares:
        console.print(f"Of fusedstep's arrays from 2 MiB up on huge pages: {'; '.join(shares)}.")
    faults(console, outcomes)


def faults(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Say what was wrong."""
    for outcome in outcomes:
        for name, timing in outcome.timings.items():
            if not timing.correct:
                why = timing.failure or "the largest error, relative to the float64 reference, is above the tolerance"
                console.print(Text(f"{outcome.case.name}: {name}: {fault(timing)}\n{why}", "bold red"))
