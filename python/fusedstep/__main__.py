"""``python -m fusedstep info``: what was built, and what this machine runs of it."""

import sys

import fusedstep


def main(arguments: list[str]) -> int:
    """Print `build_info`, a line each."""
    if arguments != ["info"]:
        print("usage: python -m fusedstep info", file=sys.stderr)
        return 2
    for name, value in fusedstep.build_info().items():
        print(f"{name}: {', '.join(value) if isinstance(value, tuple) else value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
