"""``python -m fusedstep info | machine``: what was built, and what this machine can do."""

import sys

import fusedstep


def info() -> None:
    """Print `build_info`, a line each."""
    for name, value in fusedstep.build_info().items():
        print(f"{name}: {', '.join(value) if isinstance(value, tuple) else value}")


def machine() -> None:
    """Measure the ceilings anew, and print them."""
    print(fusedstep.machine(refresh=True))


COMMANDS = {"info": info, "machine": machine}


def main(arguments: list[str]) -> int:
    """Run one of the commands."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(f"usage: python -m fusedstep {' | '.join(COMMANDS)}", file=sys.stderr)
        return 2
    COMMANDS[arguments[0]]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
