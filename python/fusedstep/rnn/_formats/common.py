"""What the readers share: the orders of gates, and checks."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fusedstep import _array
from fusedstep._array import Array

# The gates as each format stacks them; ours are torch's. The g of the formulas is ONNX's and Keras' c, their n is h.
ORDERS = {
    "LSTM": {"torch": "ifgo", "onnx": "iofg", "keras": "ifgo"},
    "GRU": {"torch": "rzn", "onnx": "zrn", "keras": "zrn"},
    "peephole": {"torch": "ifo", "onnx": "iof"},
}
GATES = {table: len(orders["torch"]) for table, orders in ORDERS.items()}
ENDINGS = ("", "_reverse")  # of names, by direction

Direction = dict[str, Array]  # one direction's arrays by the names of a cell's weights
View = Callable[[Any, str], Any]
Found = tuple[dict[str, Any], dict[str, Array]]  # options and weights


def required(package: str, user: str, otherwise: str = "") -> Any:
    """Import what is used where it is installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        root = package.partition(".")[0]
        raise ImportError(f"{user} needs the package {root}: pip install {root}{otherwise}") from error


def views_of(sources: Mapping[str, Any], view: View = _array.view) -> dict[str, Array]:
    """View arrays, by the names that errors call them: float32 or float64, all alike."""
    arrays = {name: view(source, name) for name, source in sources.items()}
    first, example = next(iter(arrays.items()))
    for name, array in arrays.items():
        if array.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"{name}: expected a float32 or float64 array, got dtype {array.dtype}")
        if array.dtype.type != example.dtype.type:
            raise TypeError(f"{name}: expected dtype {example.dtype.name} as of {first}, got {array.dtype.name}")
    return arrays


def some(names: Iterable[Any]) -> str:
    """List names, the first eight of many."""
    first = list(names)
    return f"{first[:8]}{f' and {len(first) - 8} more' if len(first) > 8 else ''}"


def expect_shape(name: str, array: Array, *shape: int, of: str = "") -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}{of and f' for {of}'}, got {array.shape}")


def length(array: Array, axis: int) -> int:
    """Give an axis' length, of arrays of other shapes 0: what is then expected is not what they have."""
    return array.shape[axis] if array.ndim >= 2 else 0


def reordered(array: Array, table: str, source: str) -> Array:
    """Put the gates along the first axis into our order."""
    blocks = dict(zip(ORDERS[table][source], np.split(array, GATES[table]), strict=True))
    return np.concatenate([blocks[gate] for gate in ORDERS[table]["torch"]])


def options_of(family: str, weights: Mapping[str, Array], layers: int, directions: int) -> dict[str, Any]:
    projection = weights.get("weight_hr_l0")
    options = {
        "input_size": weights["weight_ih_l0"].shape[1],
        "hidden_size": (weights["weight_hh_l0"] if projection is None else projection).shape[1],
        "num_layers": layers,
        "bias": "bias_ih_l0" in weights,
        "bidirectional": directions == 2,
        "layer_norm": "gain_ih_l0" in weights,
        "dtype": weights["weight_ih_l0"].dtype.type,
    }
    if family == "LSTM":
        options["peephole"] = "weight_ch_l0" in weights
        options["proj_size"] = 0 if projection is None else len(projection)
    return options


def stacked(family: str, layers: Sequence[Sequence[Direction]]) -> Found:
    """Name the arrays of each layer's directions; what another has and one lacks (a bias, peepholes) is zeros there."""
    examples = {name: array for layer in layers for own in layer for name, array in own.items()}
    weights = {
        f"{name}_l{k}{ending}": own[name] if name in own else np.zeros_like(example)
        for k, layer in enumerate(layers)
        for own, ending in zip(layer, ENDINGS, strict=False)
        for name, example in examples.items()
    }
    return options_of(family, weights, len(layers), len(layers[0])), weights


def kind_of(family: str, told: Any, reset_after: Any, why_not: str) -> dict[str, Any]:
    """Decide the kind of a GRU: what the source tells, else what the caller says."""
    if reset_after is not None and (family != "GRU" or not isinstance(reset_after, bool | np.bool_)):
        rule = "True, False or None" if family == "GRU" else "None, as only a GRU has it"
        raise TypeError(f"reset_after: expected {rule}, got {reset_after!r}")
    if family != "GRU":
        return {}
    if told is None and reset_after is None:
        raise ValueError(f"reset_after: expected True or False, as {why_not}, got None")
    if told is not None and reset_after not in (None, told):
        raise ValueError(f"reset_after: expected {told!r} or None, as the source tells, got {reset_after!r}")
    return {"reset_after": told if reset_after is None else reset_after}
