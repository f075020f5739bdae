"""One short table of what `python -m bench --json FILE` wrote: `python -m bench.short FILE`."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.contenders import CONTENDERS
from bench.report import duration, number
from bench.runner import OURS
from bench.timing import Spread

GRAPH = "graph"  # ours too: no peer


def row(case: Mapping[str, Any]) -> list[str]:
    """Return the cells of a case: ours, of the ceiling, as a graph, and the fastest peer's time over ours."""
    timed = {name: one for name, one in case["contenders"].items() if one["correct"] and one.get("seconds")}
    wrong = [CONTENDERS[name].title for name, one in case["contenders"].items() if not one["correct"]]
    cells = [case["name"], "", "", "", ""]
    if case["skipped"]:
        cells[1] = f"skipped: {case['skipped']}"
    if OURS in timed:
        cells[1] = duration(Spread(**timed[OURS]["seconds"]))
        if case["ceiling"]:
            cells[2] = f"{case['ceiling']['fraction']['median']:.0%}"
    if GRAPH in timed:
        cells[3] = duration(Spread(**timed[GRAPH]["seconds"]))
    peers = {name: one["seconds"]["median"] for name, one in timed.items() if name not in {OURS, GRAPH}}
    if peers and OURS in timed:
        fastest = min(peers, key=lambda name: peers[name])
        cells[4] = f"{CONTENDERS[fastest].title} {number(peers[fastest] / timed[OURS]['seconds']['median'])}×"
    if wrong:
        cells.append(f"FAILED or wrong: {', '.join(wrong)}")
    return cells


def table(record: Mapping[str, Any]) -> Table:
    facts = record["contenders"][OURS]
    where = facts.get("gpu") or f"{record['machine']['cpu']}, {facts.get('isa')}"
    title = f"{where}; fusedstep {facts.get('version')}, commit {record['machine']['commit']}"
    view = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("float32", "fusedstep", "of the ceiling", "as a graph", "fastest peer, its time over ours", ""):
        view.add_column(column, justify="left" if column == "float32" else "right", no_wrap=True)
    for case in record["cases"]:
        view.add_row(*row(case))
    return view


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.short", description=__doc__)
    parser.add_argument("file", type=Path)
    record = json.loads(parser.parse_args(argv).file.read_text(encoding="utf-8"))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=180, highlight=False)
    console.print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
