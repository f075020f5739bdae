"""Weights in and out: torch's state dicts, ONNX nodes and files, Keras arrays, and safetensors files.

A reader turns a source into options (what the constructor takes) and weights (by our names, in our layout), and checks
all of it first, under the names that the source gives. A source that does not say which GRU it holds is refused.
"""

import importlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

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
Found = tuple[dict[str, Any], dict[str, Array]]  # options and weights


# ---- what all readers share


def _needed(package: str, user: str, otherwise: str = "") -> Any:
    """Import what is used where it is installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        root = package.partition(".")[0]
        raise ImportError(f"{user} needs the package {root}: pip install {root}{otherwise}") from error


def _arrays(sources: Mapping[str, Any]) -> dict[str, Array]:
    """View arrays, by the names that errors call them: float32 or float64, all alike."""
    arrays = {name: _array.view(source, name) for name, source in sources.items()}
    first, example = next(iter(arrays.items()))
    for name, array in arrays.items():
        if array.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"{name}: expected a float32 or float64 array, got dtype {array.dtype}")
        if array.dtype.type != example.dtype.type:
            raise TypeError(f"{name}: expected dtype {example.dtype.name} as of {first}, got {array.dtype.name}")
    return arrays


def _some(names: Iterable[Any]) -> str:
    """List names, the first eight of many."""
    first = list(names)
    return f"{first[:8]}{f' and {len(first) - 8} more' if len(first) > 8 else ''}"


def _expect(name: str, array: Array, *shape: int, of: str = "") -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}{of and f' for {of}'}, got {array.shape}")


def _length(array: Array, axis: int) -> int:
    """Give an axis' length, of arrays of other shapes 0: what is then expected is not what they have."""
    return array.shape[axis] if array.ndim >= 2 else 0


def _reordered(array: Array, table: str, source: str) -> Array:
    """Put the gates along the first axis into our order."""
    blocks = dict(zip(ORDERS[table][source], np.split(array, GATES[table]), strict=True))
    return np.concatenate([blocks[gate] for gate in ORDERS[table]["torch"]])


def _options(family: str, weights: Mapping[str, Array], layers: int, directions: int) -> dict[str, Any]:
    options = {
        "input_size": weights["weight_ih_l0"].shape[1],
        "hidden_size": weights["weight_hh_l0"].shape[1],
        "num_layers": layers,
        "bias": "bias_ih_l0" in weights,
        "bidirectional": directions == 2,
        "dtype": weights["weight_ih_l0"].dtype.type,
    }
    return options | {"peephole": "weight_ch_l0" in weights} if family == "LSTM" else options


def _stacked(family: str, layers: Sequence[Sequence[Direction]]) -> Found:
    """Name the arrays of each layer's directions; what another has and one lacks (a bias, peepholes) is zeros there."""
    examples = {name: array for layer in layers for own in layer for name, array in own.items()}
    weights = {
        f"{name}_l{k}{ending}": own[name] if name in own else np.zeros_like(example)
        for k, layer in enumerate(layers)
        for own, ending in zip(layer, ENDINGS, strict=False)
        for name, example in examples.items()
    }
    return _options(family, weights, len(layers), len(layers[0])), weights


def _kind(family: str, told: Any, reset_after: Any, why_not: str) -> dict[str, Any]:
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


# ---- torch's names

NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_ch)_l(0|[1-9][0-9]*)(|_reverse)")


def torch_names(source: Iterable[Any], argument: str, prefix: Any, peephole: bool = False) -> dict[str, Any]:
    """Find the keys of the weights by our names; ``weight_ch`` counts where `peephole`."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {prefix!r}")
    keys = {str(key).removeprefix(prefix): key for key in source if str(key).startswith(prefix)}
    projection = next((key for name, key in keys.items() if name.startswith("weight_hr_l")), None)
    if projection is not None:
        raise ValueError(f"{argument}: expected no projection (proj_size), which is not supported, got {projection!r}")
    if "weight_ih_l0" not in keys:
        others = [str(key).removesuffix("weight_ih_l0") for key in source if str(key).endswith("weight_ih_l0")]
        hint = f"; prefix may be {' or '.join(map(repr, others))}" if others else ""
        raise ValueError(f"{argument}: expected the name {prefix + 'weight_ih_l0'!r}, got {_some(source)}{hint}")
    known = [match.groups() for match in map(NAME.fullmatch, keys) if match]
    layers = 1 + max(int(layer) for _, layer, _ in known)
    endings = ENDINGS[: 2 if any(ending for *_, ending in known) else 1]
    parts = ["weight_ih", "weight_hh"]
    parts += ["bias_ih", "bias_hh"] * any(part.startswith("bias") for part, *_ in known)
    parts += ["weight_ch"] * (peephole and any(part == "weight_ch" for part, *_ in known))
    few = min(layers, len(keys))  # a name may say l999999999
    wanted = [f"{part}_l{k}{ending}" for k in range(few) for ending in endings for part in parts]
    missing, unknown = [n for n in wanted if n not in keys], [n for n in keys if n not in set(wanted)]
    if missing or unknown:
        raise ValueError(
            f"{argument}: expected {', '.join(parts)} of {layers} layer(s) in {len(endings)} direction(s), got "
            f"no {_some(prefix + name for name in missing)}, and also {_some(prefix + name for name in unknown)}"
        )
    return {name: keys[name] for name in wanted}


def read_torch(family: str, arrays: Mapping[str, Any], titles: Mapping[str, str]) -> Found:
    """Read complete arrays by our names; `titles` are what errors call them."""
    views = _arrays({titles[name]: array for name, array in arrays.items()})
    weights = {name: views[titles[name]] for name in arrays}
    rows = GATES[family]
    H, inputs = _length(weights["weight_hh_l0"], 1), _length(weights["weight_ih_l0"], 1)
    directions = 2 if "weight_ih_l0_reverse" in weights else 1
    _expect(titles["weight_hh_l0"], weights["weight_hh_l0"], rows * H, H, of=family)
    for name, array in weights.items():
        part, _, place = name.rpartition("_l")
        width = inputs if place.removesuffix("_reverse") == "0" else directions * H
        shapes = {"weight_ih": (rows * H, width), "weight_hh": (rows * H, H), "weight_ch": (3, H)}
        _expect(titles[name], array, *shapes.get(part, (rows * H,)), of=family)
    layers = sum(name.startswith("weight_ih") for name in weights) // directions
    return _options(family, weights, layers, directions), weights


# ---- ONNX: operators LSTM and GRU, versions 1 to 22

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # a GRU has the first six

# The field of an AttributeProto that holds each attribute, and the values that are read; None where any is.
ATTRIBUTES: dict[str, tuple[str, tuple[Any, ...] | None]] = {
    "activation_alpha": ("floats", ([],)),
    "activation_beta": ("floats", ([],)),
    "activations": ("strings", None),
    "clip": ("f", ()),
    "direction": ("s", ("forward", "bidirectional")),
    "hidden_size": ("i", None),
    "input_forget": ("i", (0,)),
    "layout": ("i", (0, 1)),
    "linear_before_reset": ("i", (0, 1)),
    "output_sequence": ("i", None),  # of version 1; it changes no arithmetic
}
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
DEFAULTS: dict[str, Any] = {"direction": "forward", "layout": 0, "linear_before_reset": 0}

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
            raise ValueError(f"{label}: {name}: expected one of the tensors {_some(tensors)}, got {inputs.get(name)!r}")
    views = _arrays({f"tensors[{inputs[name]!r}]": tensors[inputs[name]] for name in names})
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
    H = _length(found["R"][1], -1) if H is None else H
    width = _length(found["W"][1], -1) if width is None else width
    shapes = {"R": (rows * H, H), "W": (rows * H, width), "B": (2 * rows * H,), "P": (3 * H,)}
    for name, (title, array) in found.items():
        _expect(title, array, D, *shapes[name], of=family)
    if attributes.get("hidden_size", H) != H:
        raise ValueError(f"{label}: attribute hidden_size: expected {H}, as R says, got {attributes['hidden_size']}")
    return attributes, [_onnx_direction(family, {name: a[d] for name, (_, a) in found.items()}) for d in range(D)]


def _onnx_direction(family: str, arrays: Mapping[str, Array]) -> Direction:
    own = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
    if "B" in arrays:
        own["bias_ih"], own["bias_hh"] = np.split(arrays["B"], 2)
    own = {name: _reordered(array, family, "onnx") for name, array in own.items()}
    if "P" in arrays:
        own["weight_ch"] = _reordered(arrays["P"].reshape(3, -1), "peephole", "onnx")
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
    onnx = _needed("onnx", "from_onnx of a file", "; or pass a node and its tensors")
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
    options, weights = _stacked(family, layers)
    if family == "GRU":
        options["reset_after"] = attributes["linear_before_reset"] == 1
    return options | {"batch_first": attributes["layout"] == 1}, weights


# ---- Keras


def _keras_direction(
    family: str, arrays: Mapping[str, Array], width: int | None, H: int | None
) -> tuple[Direction, bool | None]:
    """Read kernel, recurrent kernel and bias, by what errors call them; also the kind of GRU, where the bias tells."""
    (title, kernel), (recurrent_title, recurrent), *biases = arrays.items()
    H = _length(recurrent, 0) if H is None else H
    columns = GATES[family] * H
    _expect(recurrent_title, recurrent, H, columns, of=family)
    _expect(title, kernel, _length(kernel, 0) if width is None else width, columns, of=family)
    own, reset_after = {"weight_ih": kernel.T, "weight_hh": recurrent.T}, None
    for bias_title, bias in biases:
        reset_after = family == "GRU" and bias.ndim == 2
        _expect(bias_title, bias, *((2, columns) if reset_after else (columns,)), of=family)
        own["bias_ih"], own["bias_hh"] = bias if reset_after else (bias, np.zeros_like(bias))
    return {name: _reordered(array, family, "keras") for name, array in own.items()}, reset_after


def read_keras(family: str, arrays: Any, reset_after: Any) -> Found:
    """Read what ``get_weights`` of a layer returns, or of several as a sequence of such."""
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"arrays: expected a list of arrays, as get_weights returns, got {type(arrays).__name__}")
    nested = bool(arrays) and all(isinstance(item, list | tuple) for item in arrays)
    sources = {f"arrays[{k}]": layer for k, layer in enumerate(arrays)} if nested else {"arrays": arrays}
    D = 2 if len(next(iter(sources.values()))) > 3 else 1
    for title, layer in sources.items():
        if len(layer) not in (2 * D, 3 * D):
            raise ValueError(
                f"{title}: expected 2 or 3 arrays of one direction, 4 or 6 of two, as many directions in all layers, "
                f"got {len(layer)} arrays"
            )
    views = _arrays({f"{title}[{j}]": array for title, layer in sources.items() for j, array in enumerate(layer)})
    layers: list[list[Direction]] = []
    told: set[bool | None] = set()
    width, H = None, None
    for title, layer in sources.items():
        names = [f"{title}[{j}]" for j in range(len(layer))]
        layers.append([])
        for d in range(D):
            own = names[d * len(names) // D : (d + 1) * len(names) // D]
            direction, kind = _keras_direction(family, {name: views[name] for name in own}, width, H)
            width, H = direction["weight_ih"].shape[1], direction["weight_hh"].shape[1]
            layers[-1].append(direction)
            told.add(kind)
        width = D * direction["weight_hh"].shape[1]
    if {True, False} <= told:
        raise ValueError("arrays: expected GRUs of one kind, got biases both of shape (2, 3*H) and of (3*H,)")
    options, weights = _stacked(family, layers)
    for kind in told:
        options |= _kind(family, kind, reset_after, "arrays without a bias do not tell the kind (Keras' default: True)")
    return options, weights


# ---- safetensors: torch's names, and our options as metadata in JSON

MARK = "fusedstep."  # begins the names of our metadata


def read_safetensors(family: str, file: Any, prefix: Any, reset_after: Any) -> Found:
    """Read a file of ours, or one that says nothing about options."""
    safetensors = _needed("safetensors", "from_safetensors")
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"file: expected a path, got {type(file).__name__}")
    arrays, titles = {}, {}
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            for name, key in torch_names(list(opened.keys()), "file", prefix, peephole=family == "LSTM").items():
                dtype = opened.get_slice(key).get_dtype()
                if dtype not in ("F32", "F64"):  # NumPy lacks some of the others
                    raise TypeError(f"file[{key!r}]: expected a float32 or float64 array, got dtype {dtype}")
                arrays[name], titles[name] = opened.get_tensor(key), f"file[{key!r}]"
    except safetensors.SafetensorError as error:
        raise ValueError(f"file: expected a file of safetensors, got {os.fspath(file)!r}: {error}") from error
    found, weights = read_torch(family, arrays, titles)
    said = _said(family, {name: text for name, text in metadata.items() if name.startswith(MARK)}, found)
    kind = _kind(family, said.get("reset_after"), reset_after, "a file without our metadata does not tell the kind")
    return found | said | kind, weights


def _said(family: str, metadata: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options that our metadata says, and check them against those that the arrays imply."""
    import json  # noqa: PLC0415 - late, as NumPy does not import it

    options: dict[str, Any] = {}
    for key, text in metadata.items():
        name = key.removeprefix(MARK)
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"file: metadata {key}: expected JSON, got {text!r}") from error
        expected = {"class": family, **found}.get(name, value)
        if value != expected:
            raise ValueError(f"file: metadata {key}: expected {expected!r}, got {value!r}")
        if name not in {"class", "batch_first", "dropout", *found} | ({"reset_after"} if family == "GRU" else set()):
            raise ValueError(f"file: metadata {key}: expected an option of {family}, got {value!r}")
        options |= {} if name == "class" else {name: value}
    return options


class Formats:
    """What modules read and write: the base of `Module`.

    Weights are copied, so that a source may change afterwards. Errors name the argument and, in a source's own terms,
    what does not fit; then no module was made.
    """

    _options: ClassVar[tuple[str, ...]]  # what the constructor takes, by name, beyond sizes and dtype

    if TYPE_CHECKING:

        def __init__(self, input_size: Any, hidden_size: Any, num_layers: Any = 1, **options: Any) -> None: ...

        @property
        def weights(self) -> Mapping[str, Array]: ...

        def load(self, weights: Any) -> Self: ...

    @classmethod
    def _family(cls) -> str:
        return "GRU" if "reset_after" in cls._options else "LSTM"

    @classmethod
    def _made(cls, found: Found, **options: Any) -> Self:
        return cls(**found[0] | {name: value for name, value in options.items() if value is not None}).load(found[1])

    @classmethod
    def from_torch(
        cls, state_dict: Mapping[str, Any], *, batch_first: bool = False, dropout: float = 0.0, prefix: str = ""
    ) -> Self:
        """Make a module of the weights of a ``torch.nn.LSTM`` or ``torch.nn.GRU``.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Arrays or CPU tensors under torch's names; float32 or float64. Sizes, layers, directions, biases and dtype
            are those of the arrays.
        batch_first, dropout : optional
            As in the constructor: a state dict does not hold them.
        prefix : str, optional
            Read the names that begin with this, as ``"encoder.rnn."`` in the state dict of a model.

        Returns
        -------
        LSTM or GRU
            A GRU of torch is ``reset_after=True``.

        Raises
        ------
        ValueError
            A name is missing or unknown, among them ``weight_hr_l0`` of a projection (not supported), or a shape does
            not fit.
        TypeError
            An array is neither float32 nor float64, or not like the others, or not in CPU memory.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedstep.rnn import GRU
        >>> state_dict = {"rnn.weight_ih_l0": np.zeros((12, 3)), "rnn.weight_hh_l0": np.zeros((12, 4))}
        >>> GRU.from_torch(state_dict, prefix="rnn.").input_size
        3
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        keys = torch_names(state_dict, "state_dict", prefix)
        titles = {name: f"state_dict[{key!r}]" for name, key in keys.items()}
        found = read_torch(cls._family(), {name: state_dict[key] for name, key in keys.items()}, titles)
        kind = {"reset_after": True} if cls._family() == "GRU" else {}
        return cls._made(found, batch_first=batch_first, dropout=dropout, **kind)

    def to_torch(self) -> dict[str, Array]:
        """Copy the weights for a ``torch.nn.LSTM`` or ``torch.nn.GRU``.

        Returns
        -------
        dict of str to ndarray
            Under torch's names, in its order, for ``load_state_dict`` once ``torch.from_numpy`` made tensors of them.

        Raises
        ------
        ValueError
            The module has peepholes, or is a GRU with ``reset_after=False``: torch has no such module.

        Examples
        --------
        >>> from fusedstep.rnn import LSTM
        >>> list(LSTM(3, 4).to_torch())
        ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
        """
        for name, ours in (("peephole", False), ("reset_after", True)):
            value = getattr(self, name, ours)
            if value != ours:
                raise ValueError(f"to_torch: expected {name}={ours}, as torch has no other, got {name}={value}")
        return {name: array.copy() for name, array in self.weights.items()}

    @classmethod
    def from_onnx(cls, node_or_file: Any, tensors: Any = None, *, batch_first: bool | None = None) -> Self:
        """Make a module of ONNX's operator LSTM or GRU.

        Parameters
        ----------
        node_or_file : node, path or bytes
            An ``onnx.NodeProto`` (or an object with its fields), or a model: its path, or its content. The graph of a
            model has one node of this class' operator, or several that are stacked: each takes the output of the one
            before, at all steps and in all directions.
        tensors : mapping of str to array_like, optional
            With a node: at least its weights W, R, B and P under the names that the node calls them, as
            ``onnx.numpy_helper.to_array`` makes them of initializers. None with a file.
        batch_first : bool, optional
            As in the constructor; where None, what the node's attribute `layout` says.

        Returns
        -------
        LSTM or GRU
            A GRU is ``reset_after=True`` where `linear_before_reset` is 1; ONNX's default is 0.

        Raises
        ------
        ValueError
            A weight is missing, a shape does not fit, a model holds no such node or unrelated ones, or an attribute
            asks for what these modules lack: direction "reverse", clip, input_forget, other activations.
        TypeError
            An array is neither float32 nor float64, or not like the others.
        ImportError
            A file is given, and the package onnx is not installed. A node does not need it.

        Notes
        -----
        Lengths and initial states are arguments of calls. A constant in their place is refused, but for states of
        zeros; what a graph computes for them is not looked at.

        Examples
        --------
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> from fusedstep.rnn import GRU
        >>> node = SimpleNamespace(op_type="GRU", input=["x", "W", "R"], attribute=[])
        >>> m = GRU.from_onnx(node, {"W": np.zeros((1, 12, 3)), "R": np.zeros((1, 12, 4))})
        >>> m.hidden_size, m.reset_after
        (4, False)
        """
        return cls._made(read_onnx(cls._family(), node_or_file, tensors), batch_first=batch_first)

    @classmethod
    def from_keras(cls, arrays: Sequence[Any], *, reset_after: bool | None = None, batch_first: bool = True) -> Self:
        """Make a module of the weights of a ``keras.layers.LSTM`` or ``GRU``, or a ``Bidirectional`` of one.

        Parameters
        ----------
        arrays : list of array_like
            What ``get_weights()`` of the layer returns: kernel (inputs, gates*H), recurrent kernel (H, gates*H) and,
            with `use_bias`, bias; twice so of a ``Bidirectional``. For layers on top of each other, a list of such.
        reset_after : bool, optional
            That of a GRU. A bias tells it by its shape: (2, 3*H) is True, (3*H,) is False. It must be given where a
            layer has no bias.
        batch_first : bool, optional
            As in the constructor.

        Returns
        -------
        LSTM or GRU
            Keras' single bias is ``bias_ih``; ``bias_hh`` is zeros then.

        Raises
        ------
        ValueError
            A count or a shape does not fit, or `reset_after` is not told, or told otherwise by a bias.
        TypeError
            An array is neither float32 nor float64, or not like the others; or `reset_after` of an LSTM is given.

        Notes
        -----
        Weights do not tell a layer's other options. These modules compute what Keras does with its defaults, activation
        "tanh" and recurrent_activation "sigmoid", and for a ``Bidirectional`` merge_mode "concat". Several layers in
        one flat list (``get_weights`` of a model) are no form of `arrays`: six arrays would be two directions.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedstep.rnn import GRU
        >>> GRU.from_keras([np.zeros((3, 12)), np.zeros((4, 12)), np.zeros((2, 12))]).reset_after
        True
        """
        return cls._made(read_keras(cls._family(), arrays, reset_after), batch_first=batch_first)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write weights and options to a file of safetensors.

        Parameters
        ----------
        file : path
            Where to; a file that is there is replaced.

        Raises
        ------
        ImportError
            The package safetensors is not installed.

        Notes
        -----
        Weights stand under torch's names, so that ``safetensors.torch.load_file`` gives a state dict; options stand in
        the metadata as JSON, under names that begin with "fusedstep.".

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from fusedstep.rnn import GRU
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "gru.safetensors")
        ...     GRU(3, 4, reset_after=False).save(file)
        ...     GRU.from_safetensors(file).reset_after
        False
        """
        import json  # noqa: PLC0415 - as above

        package = _needed("safetensors.numpy", "save")
        if not isinstance(file, str | os.PathLike):
            raise TypeError(f"file: expected a path, got {type(file).__name__}")
        said = {"class": self._family()} | {name: getattr(self, name) for name in self._options}
        metadata = {MARK + name: json.dumps(value) for name, value in said.items()}
        package.save_file(dict(self.weights), os.fspath(file), metadata=metadata)

    @classmethod
    def from_safetensors(
        cls,
        file: str | os.PathLike[str],
        *,
        reset_after: bool | None = None,
        batch_first: bool | None = None,
        dropout: float | None = None,
        prefix: str = "",
    ) -> Self:
        """Make a module of a file that `save` wrote, or of one that holds weights under torch's names.

        Parameters
        ----------
        file : path
            The file.
        reset_after : bool, optional
            That of a GRU: it must be given where the file was not written by `save`.
        batch_first, dropout : optional
            As in the constructor; where None, what `save` wrote, else False and 0.
        prefix : str, optional
            Read the names that begin with this, as ``"encoder.rnn."`` in the file of a model.

        Returns
        -------
        LSTM or GRU

        Raises
        ------
        ValueError
            A name, shape or option does not fit, or the file does not tell the kind of a GRU.
        TypeError
            An array is neither float32 nor float64, or not like the others; or `reset_after` of an LSTM is given.
        ImportError
            The package safetensors is not installed.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from fusedstep.rnn import LSTM
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "lstm.safetensors")
        ...     LSTM(3, 4, peephole=True, batch_first=True).save(file)
        ...     m = LSTM.from_safetensors(file)
        >>> m.hidden_size, m.peephole, m.batch_first
        (4, True, True)
        """
        found = read_safetensors(cls._family(), file, prefix, reset_after)
        return cls._made(found, batch_first=batch_first, dropout=dropout)
