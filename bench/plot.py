"""The picture: each contender's time relative to ours, on a logarithmic axis."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.contenders import CONTENDERS
from bench.report import TITLES, duration, number
from bench.runner import OURS, Outcome

COLORS = {
    "pure": "#8c8c8c",
    "numpy": "#4c72b0",
    "torch": "#dd6b4d",
    "thinc": "#8172b3",
    "onnxruntime": "#55a868",
    "optax": "#d4a72c",
}
BAR, GAP = 0.8, 1.0  # of one row
CEILING = "ceiling: the same bytes without arithmetic"


def draw(outcomes: Sequence[Outcome], subtitle: str, path: Path) -> None:
    """Write the picture to `path`, a panel for the optimizers and one for the cells."""
    shown = [o for o in outcomes if o.ours and any(name != OURS and t.samples for name, t in o.timings.items())]
    groups = [[o for o in shown if o.case.group == group] for group in TITLES]
    groups = [group for group in groups if group]
    rows = max((sum(len(o.timings) - 1 + GAP for o in group) for group in groups), default=0)
    figure = Figure(figsize=(9 * max(len(groups), 1), 1.6 + 0.19 * rows), dpi=130, layout="constrained")
    legend = {}
    for ax, group in zip(figure.subplots(1, max(len(groups), 1), squeeze=False)[0], groups, strict=False):
        panel(ax, group)
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
        if ceiling and outcome.case.group == "optim":
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
    ax.set_title(f"{TITLES[outcomes[0].case.group]}, with fusedstep's time", loc="left", fontsize=11)
    ax.set_xlabel("their time / fusedstep's time (logarithmic)")
