"""torch's state dicts, by their names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fusedstep import _array
from fusedstep.rnn._formats.common import (
    ENDINGS,
    GATES,
    Found,
    View,
    expect_shape,
    length,
    options_of,
    some,
    views_of,
)

PARTS = "weight_ih|weight_hh|bias_ih|bias_hh|weight_ch|weight_hr|gain_ih|gain_hh|gain_c|bias_c"
NAME = re.compile(rf"({PARTS})_l(0|[1-9][0-9]*)(|_reverse)")


def torch_names(
    source: Iterable[Any], argument: str, prefix: Any, family: str, peephole: bool = True
) -> dict[str, Any]:
    """Find the keys of the weights by our names; an LSTM may have a projection and, where `peephole`, peepholes."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {prefix!r}")
    keys = {str(key).removeprefix(prefix): key for key in source if str(key).startswith(prefix)}
    if "weight_ih_l0" not in keys:
        others = [str(key).removesuffix("weight_ih_l0") for key in source if str(key).endswith("weight_ih_l0")]
        hint = f"; prefix may be {' or '.join(map(repr, others))}" if others else ""
        raise ValueError(f"{argument}: expected the name {prefix + 'weight_ih_l0'!r}, got {some(source)}{hint}")
    known = [match.groups() for match in map(NAME.fullmatch, keys) if match]
    layers = 1 + max(int(layer) for _, layer, _ in known)
    endings = ENDINGS[: 2 if any(ending for *_, ending in known) else 1]
    found = {part for part, *_ in known}
    bias = not found.isdisjoint({"bias_ih", "bias_hh"})
    parts = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bias
    optional = ["weight_ch"] * peephole + ["weight_hr"] if family == "LSTM" else []
    parts += [name for name in optional if name in found]
    if any(part.startswith("gain") for part in found):
        parts += ["gain_ih", "gain_hh"] + (["gain_c"] + ["bias_c"] * bias) * (family == "LSTM")
    few = min(layers, len(keys))  # a name may say l999999999
    wanted = [f"{part}_l{k}{ending}" for k in range(few) for ending in endings for part in parts]
    missing, unknown = [n for n in wanted if n not in keys], [n for n in keys if n not in set(wanted)]
    if missing or unknown:
        raise ValueError(
            f"{argument}: expected {', '.join(parts)} of {layers} layer(s) in {len(endings)} direction(s), got "
            f"no {some(prefix + name for name in missing)}, and also {some(prefix + name for name in unknown)}"
        )
    return {name: keys[name] for name in wanted}


def read_torch(
    family: str, arrays: Mapping[str, Any], titles: Mapping[str, str], coupled: bool = False, view: View = _array.view
) -> Found:
    """Read complete arrays by our names; `titles` are what errors call them. An LSTM may be `coupled`."""
    views = views_of({titles[name]: array for name, array in arrays.items()}, view)
    weights = {name: views[titles[name]] for name in arrays}
    rows, peepholes = GATES[family] - coupled, GATES["peephole"] - coupled
    P, inputs = length(weights["weight_hh_l0"], 1), length(weights["weight_ih_l0"], 1)
    projection = weights.get("weight_hr_l0")
    if projection is not None and (projection.ndim != 2 or len(projection) >= projection.shape[1]):
        rule = "expected shape (proj_size, hidden_size), the first smaller"
        raise ValueError(f"{titles['weight_hr_l0']}: {rule}, got {projection.shape}")
    H = P if projection is None else projection.shape[1]
    directions = 2 if "weight_ih_l0_reverse" in weights else 1
    expect_shape(titles["weight_hh_l0"], weights["weight_hh_l0"], rows * H, P, of=family)
    for name, array in weights.items():
        part, _, place = name.rpartition("_l")
        width = inputs if place.removesuffix("_reverse") == "0" else directions * P
        shapes = {
            "weight_ih": (rows * H, width),
            "weight_hh": (rows * H, P),
            "weight_ch": (peepholes, H),
            "weight_hr": (P, H),
            "gain_c": (H,),
            "bias_c": (H,),
        }
        expect_shape(titles[name], array, *shapes.get(part, (rows * H,)), of=family)
    layers = sum(name.startswith("weight_ih") for name in weights) // directions
    return options_of(family, weights, layers, directions), weights
