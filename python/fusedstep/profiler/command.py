"""``python -m fusedstep profile``: a script as Python runs it, and its profile."""

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fusedstep.profiler.record import profile


def run(arguments: Sequence[str]) -> int:
    """Run a script, or with ``-m`` a module, and print the table; also where it raises or exits."""
    parser = argparse.ArgumentParser(
        prog="python -m fusedstep profile",
        description="Run a script, and print where the time of its fused calls went.",
    )
    parser.add_argument("--roofline", type=Path, metavar="FILE.png", help="draw the calls below the machine's roofs")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="write trace events for ui.perfetto.dev")
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module's name")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="arguments", help="of the script")
    options = parser.parse_args(arguments)
    if not options.module and not Path(options.script).is_file():
        parser.error(f"SCRIPT: expected a file, got {options.script}")
    prof = profile()
    try:
        with _arguments(options.script, options.rest, options.module), prof:
            if options.module:
                runpy.run_module(options.script, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(options.script, run_name="__main__")
    finally:
        sys.stdout.flush()
        prof.table()
        if options.roofline:
            prof.roofline(options.roofline)
        if options.trace:
            prof.trace(options.trace)
    return 0


@contextmanager
def _arguments(script: str, rest: Sequence[str], module: bool) -> Iterator[None]:
    """Give the script its arguments, and the folder to import from that Python would."""
    argv, path = sys.argv, sys.path[:]
    sys.argv = [script, *rest]
    sys.path[0] = str(Path.cwd() if module else Path(script).resolve().parent)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
