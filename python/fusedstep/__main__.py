"""``python -m fusedstep info | machine | profile SCRIPT``: what was built, what the machine can do, where time goes."""

import sys
from collections.abc import Callable, Sequence

import fusedstep


def info(arguments: Sequence[str]) -> int:
    """Print `build_info`, a line each."""
    if arguments:
        return usage()
    for name, value in fusedstep.build_info().items():
        print(f"{name}: {', '.join(value) if isinstance(value, tuple) else value}")
    return 0


def machine(arguments: Sequence[str]) -> int:
    """Measure the ceilings anew, and print them."""
    if arguments:
        return usage()
    print(fusedstep.machine(refresh=True))
    return 0


def profile(arguments: Sequence[str]) -> int:
    """Run a script, and print where its time went."""
    from fusedstep.profiler.command import run  # noqa: PLC0415 - argparse and the profiler, where they are used

    return run(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"info": info, "machine": machine, "profile": profile}


def usage() -> int:
    """Tell the commands."""
    print("usage: python -m fusedstep info | machine | profile SCRIPT [arguments]", file=sys.stderr)
    return 2


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    if not arguments or arguments[0] not in COMMANDS:
        return usage()
    return COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
