"""The benchmark's command line: `python -m bench --help`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import growth, machine, report
from bench.contenders import CONTENDERS
from bench.rows import select
from bench.runner import OURS, Outcome, Runner, Settings

LEVELS = {
    "smoke": Settings(threads=0, sample=0.001, rounds=3, budget=0.05),
    "default": Settings(threads=0, sample=0.025, rounds=9, budget=0.6),
    "full": Settings(threads=0, sample=0.05, rounds=25, budget=5.0),
}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time fusedstep beside pure Python, NumPy and the peers that are installed. "
        "Every result is checked against a float64 reference first; a wrong one makes the exit status 1.",
    )
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--full", action="store_true", help="more cases, peers and rounds: several minutes")
    level.add_argument("--smoke", action="store_true", help="smallest sizes: does everything run, not how fast")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where everything runs (%(default)s)")
    parser.add_argument(
        "--only", choices=("optim", "rnn", "loss"), help="optimizers; cells, sequences and streams; or losses"
    )
    parser.add_argument("--growth", action="store_true", help="also time and memory against steps, batch and width")
    parser.add_argument("--threads", type=int, default=machine.processors(), help="for every contender (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, versions and all figures")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the ratios, and FILE-growth.png (needs matplotlib)"
    )
    options = parser.parse_args(argv)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    for name, path in (("--json", options.json), ("--plot", options.plot)):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{name}: expected a folder that exists, got {path.parent}")
    if options.device == "cuda":
        if options.growth:
            parser.error("--growth measures the host's memory: it goes with --device cpu alone")
        if missing := machine.cuda_missing():
            parser.error(f"--device cuda: {missing}")
    if options.plot and not find_spec("matplotlib"):
        parser.error("--plot needs matplotlib; pip install '.[bench]' brings it")
    return options


def run(options: argparse.Namespace, console: Console) -> int:
    level = "full" if options.full else "smoke" if options.smoke else "default"
    settings = replace(LEVELS[level], threads=options.threads, device=options.device)
    cases = select(options.only, full=options.full, smoke=options.smoke, device=options.device)
    about = machine.describe()
    report.warnings(console, dict(os.environ), about)
    outcomes: list[Outcome] = []
    points: list[growth.Point] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Runner(settings) as runner:
        peers = {peer for case in cases for peer in case.peers}
        runner.start([OURS])  # alone: it measures the machine
        runner.start(name for name, entry in CONTENDERS.items() if entry.installed and name in {OURS, *peers})
        report.header(console, about, runner.facts, settings)
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(cases))
            for case in cases:
                outcomes.append(
                    runner.measure(case, lambda what, c=case: progress.update(task, description=f"{c.name}: {what}"))
                )
                progress.advance(task)
            if options.growth:
                axes = growth.SMOKE if options.smoke else growth.AXES
                points = growth.measure(runner, axes, lambda what: progress.update(task, description=what))
        facts = runner.facts
    report.show(console, outcomes, facts[OURS].get("isa", "nothing"), options.device)
    grown = [outcome for point in points for outcome in (point.inference, point.training)]
    if points:
        console.print(report.growth(points))
        report.faults(console, grown)
    if options.json:
        record = {
            "machine": about,
            "level": level,
            "settings": asdict(settings),
            "contenders": facts,
            "further_tensor": report.further_tensor(outcomes),
            "cases": [outcome.record() for outcome in outcomes],
            "growth": [point.record() for point in points],
        }
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.plot:
        from bench import plot  # noqa: PLC0415 - matplotlib takes a second

        where = facts[OURS].get("gpu", about["cpu"])
        subtitle = f"{where}, {facts[OURS].get('isa')}, threads: {settings.threads}"
        plot.draw(outcomes, subtitle, options.plot)
        if points:
            plot.draw_growth(points, subtitle, options.plot.with_stem(f"{options.plot.stem}-growth"))
    return 0 if all(outcome.correct for outcome in (*outcomes, *grown)) else 1


def main(argv: Sequence[str] | None = None) -> int:
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a log: as wide as the tables are
        console = Console(width=180, highlight=False)
    return run(arguments(argv), console)


if __name__ == "__main__":
    sys.exit(main())
