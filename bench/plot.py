"""The pictures: each contender's time relative to ours, and how time and memory grow, on logarithmic axes."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.contenders import CONTENDERS
from bench.growth import BASE, PEERS, SYMBOLS, Point
from bench.report import TITLES, duration, number
from bench.runner import OURS, Outcome

COLORS = {
    OURS: "#1f1f1f",
    "plain": "#4d4d4d",
    "pure": "#8c8c8c",
    "numpy": "#4c72b0",
    "torch": "#dd6b4d",
    "compiled": "#a8442b",
    "thinc": "#8172b3",
    "onnxruntime": "#55a868",
    "optax": "#d4a72c",
    "numexpr": "#937860",
    "graph": "#4d4d4d",
    "torch_foreach": "#e9a691",
    "torch_graph": "#a34428",
    "elementwise": "#4c72b0",
    "fuse": "#8fa9d3",
    "apex": "#55a868",
}
BAR, GAP = 0.8, 1.0  # of one row
CEILING = "ceiling: the same bytes without arithmetic"


def draw(outcomes: Sequence[Outcome], subtitle: str, path: Path) -> None:
    """Write the picture to `path`, a panel for each table, two side by side."""
    shown = [o for o in outcomes if o.ours and any(name != OURS and t.samples for name, t in o.timings.items())]
    tables = [[o for o in shown if o.case.table == kind] for kind in TITLES]
    tables = [table for table in tables if table] or [[]]
    rows = [sum(len(o.timings) - 1 + GAP for o in table) for table in tables]
    heights = [1.2 + 0.19 * max(rows[i : i + 2]) for i in range(0, len(rows), 2)]
    columns = min(len(tables), 2)
    figure = Figure(figsize=(9 * columns, 0.4 + sum(heights)), dpi=130, layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).flat
    legend = {}
    for ax, table in zip_longest(axes, tables):
        if not table:
            ax.set_axis_off()
            continue
        panel(ax, table)
        handles, labels = ax.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    if legend:
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), frameon=False)
    figure.suptitle(f"Time relative to fusedstep: longer bars are slower than it\n{subtitle}", fontsize=11)
    figure.savefig(path)


def panel(ax: Axes, outcomes: Sequence[Outcome]) -> None:
    """Draw a row of bars for each case, from 1 (our time) to the contender's multiple of it, with its quartiles."""
    at, far = 0.0, 1.0
    places, labels = [], []
    named: set[str] = set()  # what the legend has
    for outcome in outcomes:
        first = at
        for name, entry in CONTENDERS.items():
            relative = outcome.ratio(name)
            if name == OURS or relative is None:
                continue
            times = relative.inverse()
            label = None if name in named else entry.title
            ax.barh(at, times.median - 1, BAR, left=1, color=COLORS[name], label=label)
            ax.plot([times.low, times.high], [at, at], color="black", linewidth=1)
            end = max(times.high, 1.0)
            ax.text(end * 1.08, at, f"{number(times.median)}×", va="center", fontsize=7)
            named.add(name)
            far = max(far, end)
            at += 1
        ceiling = outcome.ratio("ceiling")
        if ceiling and outcome.case.table == "optim":
            span = [first - BAR / 2, at - 1 + BAR / 2]
            ax.plot([1 / ceiling.median] * 2, span, "k:", label=None if CEILING in named else CEILING)
            named.add(CEILING)
        assert outcome.ours
        places.append((first + at - 1) / 2)
        labels.append(f"{outcome.case.name}\n{duration(outcome.ours.time)}")
        at += GAP
    ax.set_xscale("log")
    ax.set_xlim(right=far * 3)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}×")
    ax.set_yticks(places, labels, fontsize=8)
    ax.set_ylim(at - GAP, -1)
    ax.axvline(1, color="black", linewidth=1)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(f"{TITLES[outcomes[0].case.table]}, with fusedstep's time", loc="left", fontsize=11)
    ax.set_xlabel("their time / fusedstep's time (logarithmic)")


def draw_growth(points: Sequence[Point], subtitle: str, path: Path) -> None:
    """Write the picture to `path`: time above, peak memory below, a column for each axis."""
    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(5 * len(axes), 8), dpi=130, layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False, sharey="row")
    for axis, times, memory in zip(axes, *panels, strict=True):
        chosen = [point for point in points if point.axis == axis]
        for name in (OURS, *PEERS):
            curves(times, memory, name, chosen)
        for ax in (times, memory):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xlabel(SYMBOLS[axis])
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
        fixed = [f"{symbol}={getattr(BASE, other)}" for other, symbol in SYMBOLS.items() if other != axis]
        times.set_title(", ".join(fixed), loc="left", fontsize=10)
    panels[0, 0].set_ylabel("seconds a call")
    panels[1, 0].set_ylabel("MiB at the peak of forward + backward")
    for ax in panels[:, 0]:
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle(f"How an LSTM's time and memory grow\n{subtitle}", fontsize=11)
    figure.savefig(path)


def curves(times: Axes, memory: Axes, name: str, points: Sequence[Point]) -> None:
    """Draw a contender's times with their quartiles, and its memory."""
    color, title = COLORS[name], CONTENDERS[name].title
    for what, dashes in (("inference", "--"), ("training", "-")):
        timings = [(p.value, getattr(p, what).timings.get(name)) for p in points]
        spreads = [(value, timing.time) for value, timing in timings if timing and timing.samples]
        if spreads:
            at = [value for value, _ in spreads]
            label = f"{title}, {'inference' if what == 'inference' else 'forward + backward'}"
            times.plot(at, [s.median for _, s in spreads], dashes, marker=".", color=color, label=label)
            low, high = [s.low for _, s in spreads], [s.high for _, s in spreads]
            times.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
    kept = [(p.value, p.memory[name] / 2**20) for p in points if p.memory.get(name)]
    if kept:
        memory.plot(*zip(*kept, strict=True), "-", marker=".", color=color, label=title)
