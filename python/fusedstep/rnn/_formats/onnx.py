"""ONNX: operators LSTM and GRU, versions 1 to 22."""

import importlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fusedstep._array import Array
from fusedstep.rnn._formats.common import (
    GATES,
    Direction,
    Found,
    expect_shape,
    length,
    reordered,
    required,
    some,
    stacked,
    views_of,
)

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # a GRU has the first six

# The field of an AttributeProto that holds each attribute, and the values that are read; None where any is.
ATTRIBUTES: dict[str, tuple[str, tuple[Any, ...] | None]] = {
    "activation_alpha": ("floats", ([],)),
    "activation_beta": ("floats", ([],)),
    "activations": ("strings", None),
    "clip": ("f", ()),
    "direction": ("s", ("forward", "bidirectional")),
    "hidden_size": ("i", None),
    "input_forget": ("i", (0, 1)),
    "layout": ("i", (0, 1)),
    "linear_before_reset": ("i", (0, 1)),
    "output_sequence": ("i", None),  # of version 1; it changes no arithmetic
}
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
DEFAULTS: dict[str, Any] = {"direction": "forward", "input_forget": 0, "layout": 0, "linear_before_reset": 0}

# Operators that move values and change none. Dropout is none at inference.
MOVES = {
    "Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape",
    "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def _attributes(family: str, node: Any, label: str) -> dict[str, Any]:
    """Read a node's attributes, and refuse those that ask for other arithmetic than ours."""
    attributes = dict(DEFAULTS)
    for attribute in node.attribute:
        name = attribute.name
        if name not in ATTRIBUTES:
            raise ValueError(f"{label}: expected attributes among {', '.join(ATTRIBUTES)}, got {name!r}")
        field, allowed = ATTRIBUTES[name]
        value = getattr(attribute, field)
        value = list(value) if field in ("floats", "strings") else value.decode() if field == "s" else value
        if allowed is not None and value not in allowed:
            rule = f"expected {' or '.join(map(repr, allowed))}" if allowed else "expected none"
            raise ValueError(f"{label}: attribute {name}: {rule}, got {value!r}")
        attributes[name] = value
    defaults = ACTIVATIONS[family] * (1 + (attributes["direction"] == "bidirectional"))
    activations = [name.decode() for name in attributes.get("activations", [])] or defaults
    if list(map(str.lower, activations)) != list(map(str.lower, defaults)):
        raise ValueError(f"{label}: attribute activations: expected {defaults}, got {activations}")
    return attributes


def _tensors(node: Any, tensors: Any, label: str) -> dict[str, tuple[str, Array]]:
    """Find a node's weights W, R, B, P: what errors call each, and its array."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors: expected a mapping of names to arrays, got {type(tensors).__name__}")
    inputs = {name: value for name, value in zip(INPUTS, node.input, strict=False) if value}
    for name, argument in (("sequence_lens", "lengths"), ("initial_h", "state"), ("initial_c", "state")):
        constant = tensors.get(inputs.get(name))
        if constant is not None and (name == "sequence_lens" or np.any(constant)):
            raise ValueError(
                f"{label}: {name}: expected an input of the graph (pass it as `{argument}` in calls), got the constant "
                f"{inputs[name]!r}"
            )
    names = [name for name in ("R", "W", "B", "P") if name in inputs or name in ("R", "W")]
    for name in names:
        if inputs.get(name) not in tensors:
            raise ValueError(f"{label}: {name}: expected one of the tensors {some(tensors)}, got {inputs.get(name)!r}")
    views = views_of({f"tensors[{inputs[name]!r}]": tensors[inputs[name]] for name in names})
    return dict(zip(names, views.items(), strict=True))


def read_onnx_node(
    family: str, node: Any, tensors: Any, label: str = "node_or_file", width: int | None = None, H: int | None = None
) -> tuple[dict[str, Any], list[Direction]]:
    """Read the attributes and the directions of one node; `width` and `H` where layers below tell them."""
    if node.op_type != family or getattr(node, "domain", "") not in ("", "ai.onnx"):
        raise ValueError(f"{label}: expected ONNX's operator {family}, got {node.op_type!r}")
    attributes = _attributes(family, node, label)
    found = _tensors(node, tensors, label)
    rows, D = GATES[family], 1 + (attributes["direction"] == "bidirectional")
    H = length(found["R"][1], -1) if H is None else H
    width = length(found["W"][1], -1) if width is None else width
    shapes = {"R": (rows * H, H), "W": (rows * H, width), "B": (2 * rows * H,), "P": (3 * H,)}
    for name, (title, array) in found.items():
        expect_shape(title, array, D, *shapes[name], of=family)
    if attributes.get("hidden_size", H) != H:
        raise ValueError(f"{label}: attribute hidden_size: expected {H}, as R says, got {attributes['hidden_size']}")
    coupled = attributes["input_forget"] == 1
    return attributes, [
        _onnx_direction(family, {name: a[d] for name, (_, a) in found.items()}, coupled) for d in range(D)
    ]


def _onnx_direction(family: str, arrays: Mapping[str, Array], coupled: bool) -> Direction:
    own = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
    if "B" in arrays:
        own["bias_ih"], own["bias_hh"] = np.split(arrays["B"], 2)
    own = {name: reordered(array, family, "onnx") for name, array in own.items()}
    if "P" in arrays:
        own["weight_ch"] = reordered(arrays["P"].reshape(3, -1), "peephole", "onnx")
    if coupled:  # f = 1 − σ(i), and ours is i = 1 − σ(f): σ(−a) = 1 − σ(a), so that our f is their i, negated
        for name, array in own.items():
            i, _, *others = np.split(array, GATES["peephole" if name == "weight_ch" else family])
            own[name] = np.concatenate([-i, *others])
    return own


def _values(onnx: Any, model: Any, wanted: Iterable[str], given: Mapping[str, Array]) -> dict[str, Array]:
    """Compute what moving values makes of constants and of what is given; what takes more is missing."""
    known = {tensor.name: tensor for tensor in model.graph.initializer} | dict(given)
    pending, nodes = set(wanted) - known.keys(), []
    for node in reversed(model.graph.node):  # a graph is sorted: producers come first
        if not pending.isdisjoint(node.output) and node.op_type in MOVES:
            nodes.append(node)
            pending.update(name for name in node.input if name not in known)
    opsets = {opset.domain.removeprefix("ai.onnx"): opset.version for opset in model.opset_import}

    def value(name: str) -> Any:
        return known[name] if isinstance(known[name], np.ndarray) else onnx.numpy_helper.to_array(known[name])

    for node in reversed(nodes):
        if node.op_type == "Dropout":
            source = node.input[0]
            known |= {node.output[0]: known[source]} if source in known else {}
        elif all(name in known for name in node.input if name):
            evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(node, opsets=opsets)
            try:
                outputs = evaluator.run(None, {name: value(name) for name in node.input if name})
            except (LookupError, RuntimeError, TypeError, ValueError):  # moves arrays of other shapes alone
                continue
            known |= zip(node.output, map(np.asarray, outputs), strict=True)
    return {name: value(name) for name in wanted if name in known}


def _check_stacked(onnx: Any, model: Any, below: Any, above: Any, layout: int, *shape: int) -> None:
    """Raise ValueError unless `above` takes the output of `below`, (…, directions, H), directions side by side."""
    y = np.random.default_rng(0).uniform(-1, 1, (2, 3, *shape)).astype(np.float32)
    given = {below.output[0]: y if layout else y.swapaxes(1, 2)} if below.output and below.output[0] else {}
    x = _values(onnx, model, above.input[:1], given).get(above.input[0])
    if x is None or not np.array_equal(x, y.reshape(2, 3, -1)):
        raise ValueError(
            f"node_or_file: expected one {below.op_type}, or layers that each take the output of the one before, got "
            f"{above.name or above.output[0]!r} after {below.name or below.output[0]!r}, which takes something else"
        )


def read_onnx_file(family: str, file: Any) -> tuple[dict[str, Any], list[list[Direction]]]:
    """Read the node of a model that is an LSTM or a GRU, or those that are stacked on each other."""
    onnx = required("onnx", "from_onnx of a file", "; or pass a node and its tensors")
    decode_error = importlib.import_module("google.protobuf.message").DecodeError
    try:
        model = onnx.load_from_string(file) if isinstance(file, bytes) else onnx.load(file)
    except decode_error as error:
        shown = f"{len(file)} bytes" if isinstance(file, bytes) else repr(file)
        raise ValueError(f"node_or_file: expected a model of ONNX, got {shown}: {error}") from error
    nodes = [node for node in model.graph.node if node.op_type == family]
    if not nodes:
        found = sorted({node.op_type for node in model.graph.node})
        raise ValueError(f"node_or_file: expected a graph with one {family}, or a stack, got the operators {found}")
    attributes: dict[str, Any] = {}
    layers: list[list[Direction]] = []
    for k, node in enumerate(nodes):
        label, sizes = f"node_or_file: {node.name or f'{family} {k}'}", {}
        if layers:
            D, H = len(layers[0]), layers[0][0]["weight_hh"].shape[1]
            _check_stacked(onnx, model, nodes[k - 1], node, attributes["layout"], D, H)
            sizes = {"width": D * H, "H": H}
        own, directions = read_onnx_node(family, node, _values(onnx, model, node.input[1:], {}), label, **sizes)
        own["dtype"] = directions[0]["weight_hh"].dtype.name
        attributes = attributes or own
        for name in (*DEFAULTS, "dtype"):
            if own[name] != attributes[name]:
                raise ValueError(f"{label}: {name}: expected {attributes[name]!r} as below, got {own[name]!r}")
        layers.append(directions)
    return attributes, layers


def read_onnx(family: str, node_or_file: Any, tensors: Any) -> Found:
    """Read a node and its tensors, or a file; the attribute layout says `batch_first`."""
    if isinstance(node_or_file, str | bytes | os.PathLike):
        if tensors is not None:
            raise ValueError(f"tensors: expected None with a file, got {type(tensors).__name__}")
        attributes, layers = read_onnx_file(family, node_or_file)
    elif all(hasattr(node_or_file, field) for field in ("op_type", "input", "attribute")):
        attributes, directions = read_onnx_node(family, node_or_file, tensors)
        layers = [directions]
    else:
        raise TypeError(f"node_or_file: expected a node, a path or bytes, got {type(node_or_file).__name__}")
    options, weights = stacked(family, layers)
    if family == "GRU":
        options["reset_after"] = attributes["linear_before_reset"] == 1
    else:
        options["coupled"] = attributes["input_forget"] == 1
    return options | {"batch_first": attributes["layout"] == 1}, weights
