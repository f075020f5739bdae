"""cupy.fuse: the same formulas as Python functions that CuPy makes one kernel of."""

import re
from collections.abc import Callable
from typing import Any

import cupy

from bench.contenders.cuda import elementwise


def fused(method: elementwise.Method) -> Callable[..., Any]:
    """Return the function of g, scalars, p and states."""
    body = re.sub(r"(\d)f\b", r"\1", method.update)  # Python's numbers have no suffix
    names: dict[str, Any] = {"sqrt": cupy.sqrt}
    exec(f"def update({', '.join(('g', *method.names, 'p', *method.states))}): {body}", names)  # noqa: S102
    return cupy.fuse(names["update"])  # type: ignore[no-any-return]


class Contender(elementwise.Contender):
    make = staticmethod(fused)
