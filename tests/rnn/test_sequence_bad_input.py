"""Bad input to modules: one clear error that names the argument, and no array changed; or what a user expects."""

import contextlib
import re
from functools import partial

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import GRU, LSTM

from .cells import DTYPES, arrays_of, assert_same_bits, flat, structured
from .cells import draw as draw_step
from .sequences import MODULES, draw

kinds = pytest.mark.parametrize("kind", MODULES)
classes = pytest.mark.parametrize("cls", [LSTM, GRU])
T, B, INPUTS, H, L = 6, 4, 7, 20, 2


def float32(*shape):
    return np.zeros(shape, np.float32)


def misaligned(*shape):
    return np.zeros(4 * int(np.prod(shape)) + 1, np.uint8)[1:].view(np.float32).reshape(shape)


@contextlib.contextmanager
def refused(error, *parts, unchanged=()):
    """The body raises one error whose message begins with the first part and has the others; no array changes."""
    before = [array.copy() for array in unchanged]
    with pytest.raises(error, match="^" + ".*".join(re.escape(part) for part in parts)):
        yield
    assert_same_bits(list(unchanged), before)


class Arguments:
    """The arguments of a module's calls, any of them replaced."""

    def __init__(self, kind, **options):
        self.case = draw(kind, T, B, INPUTS, H, num_layers=L, **options)
        self.module = self.case.module()
        self.states = ("h", "c")[: len(self.case.states)]
        self.out = {name: np.full_like(w, 7) for name, w in self.case.weights.items()}
        self.width = self.case.width  # of h

    def shape(self, name):
        """The shape of x, h, c, dy, dh or dc."""
        if name in ("x", "dy"):
            return getattr(self.case, name).shape
        return self.case.states[self.states.index(name.removeprefix("d"))].shape

    def arrays(self):
        case = self.case
        mine = (case.x, *case.states, case.dy, *case.dstates, *self.module.weights.values(), *self.out.values())
        return [*mine, *(array for array in (case.lengths, case.reset) if array is not None)]

    def forward(self, call, **replaced):
        """A call with these replaced; h and c replace one array of the state."""
        case = self.case
        states = [replaced.pop(name, array) for name, array in zip(self.states, case.states, strict=True)]
        values = {"x": case.x, "state": structured(states), "lengths": case.lengths, "reset": case.reset} | replaced
        return call(values.pop("x"), values.pop("state"), values.pop("lengths"), **values)

    def refuse_forward(self, error, *parts, **replaced):
        """Inference and both forms of training refuse it alike."""
        forward = self.module.forward
        for call in (self.module, forward, partial(forward, tape="lean")):
            with refused(error, *parts, unchanged=self.arrays()):
                self.forward(call, **replaced)

    def tape(self):
        return self.forward(self.module.forward)[2]

    def backward(self, tape, **replaced):
        """A backward call with these replaced; dh and dc replace one array of the state's gradient."""
        pairs = zip(self.states, self.case.dstates, strict=True)
        dstates = [replaced.pop(f"d{name}", array) for name, array in pairs]
        values = {"dy": self.case.dy, "dstate": structured(dstates), "out": self.out} | replaced
        return self.module.backward(tape, values.pop("dy"), values.pop("dstate"), **values)

    def refuse_backward(self, error, *parts, **replaced):
        """It is refused, and leaves the tape as good as new."""
        tape, desired = self.tape(), flat(self.backward(self.tape(), out=None))
        with refused(error, *parts, unchanged=self.arrays()):
            self.backward(**{"tape": tape} | replaced)
        assert not tape.spent
        assert_same_bits(flat(self.backward(tape, out=None)), desired)


@pytest.fixture(params=MODULES)
def arguments(request):
    return Arguments(request.param, shortest=0, reset=True)


# ---- forward and backward: arrays. Each row is what takes the place of an array of this shape.

WRONG = {
    "one dimension": (lambda *s: float32(s[-1]), ValueError, "expected shape ("),
    "no dimension": (lambda *_: float32(), ValueError, "expected shape ("),
    "four dimensions": (lambda *s: float32(1, *s), ValueError, "expected shape ("),
    "width": (lambda *s: float32(*s[:-1], s[-1] + 1), ValueError, "expected shape ("),
    "no width": (lambda *s: float32(*s[:-1], 0), ValueError, "expected shape ("),
    "float64": (lambda *s: np.zeros(s), TypeError, "expected"),
    "float16": (lambda *s: np.zeros(s, np.float16), TypeError, "expected"),
    "integers": (lambda *s: np.zeros(s, np.int64), TypeError, "expected"),
    "complex": (lambda *s: np.zeros(s, np.complex64), TypeError, "expected"),
    "flags": (lambda *s: np.zeros(s, bool), TypeError, "expected"),
    "objects": (lambda *s: np.zeros(s, object), TypeError, "expected"),
    "byte order": (lambda *s: np.zeros(s, ">f4"), TypeError, "expected"),
    "list": (lambda *s: np.zeros(s).tolist(), TypeError, "expected"),
    "number": (lambda *_: 1.0, TypeError, "expected"),
    "text": (lambda *_: "zeros", TypeError, "expected"),
    "object": (lambda *_: object(), TypeError, "expected"),
    "misaligned": (misaligned, ValueError, "expected"),
    "columns apart": (lambda *s: float32(*s[:-1], 2 * s[-1])[..., ::2], ValueError, "expected"),
    "columns reversed": (lambda *s: float32(*s)[..., ::-1], ValueError, "expected"),
    "columns broadcast": (lambda *s: np.broadcast_to(float32(*s[:-1], 1), s), ValueError, "expected"),
}


# Of each form of state one kind: those that share a form share its checks.
ARRAYS = [
    (kind, name)
    for kind in ("lstm", "projected_lstm", "gru")
    for name in ("x", "h", "c", "dy", "dh", "dc")
    if kind != "gru" or name not in ("c", "dc")
]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("kind", "name"), ARRAYS)
def test_array_that_does_not_fit_is_refused(kind, name, wrong):
    arguments = Arguments(kind)
    make, error, message = WRONG[wrong]
    refuse = arguments.refuse_backward if name.startswith("d") else arguments.refuse_forward
    refuse(error, f"{name}: {message}", "got", **{name: make(*arguments.shape(name))})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("h", (L, B + 1, H)),
        ("h", (L + 1, B, H)),
        ("h", (L, H)),
        ("dy", (T + 1, B, H)),
        ("dy", (T, B + 1, H)),
        ("dy", (B, T, H)),
        ("dy", (T, H)),
        ("dh", (2 * L, B, H)),
        ("dh", (L, B + 1, H)),
        ("dh", (L, H)),
    ],
    ids=str,
)
def test_array_of_another_call_is_refused(arguments, name, shape):
    refuse = arguments.refuse_backward if name.startswith("d") else arguments.refuse_forward
    parts = f"{name}: expected shape {arguments.shape(name)}", f"got {shape}"
    refuse(ValueError, *parts, **{name: float32(*shape)})


@pytest.mark.parametrize("kind", [kind for kind in MODULES if kind.startswith("projected")])
def test_width_of_the_other_state_is_refused(kind):
    """Of a projection h is P wide, and c as wide as the units."""
    arguments = Arguments(kind)
    P = arguments.width
    assert P < H
    for refuse, prefix in ((arguments.refuse_forward, ""), (arguments.refuse_backward, "d")):
        for name, right, wrong in (("h", P, H), ("c", H, P)):
            parts = f"{prefix}{name}: expected shape {(L, B, right)}", f"got {(L, B, wrong)}"
            refuse(ValueError, *parts, **{prefix + name: float32(L, B, wrong)})
    arguments.refuse_backward(ValueError, f"dy: expected shape {(T, B, P)}", f"got {(T, B, H)}", dy=float32(T, B, H))


def test_no_input_is_refused(arguments):
    arguments.refuse_forward(TypeError, "x: expected", "got None", x=None)


@kinds
def test_unbatched_and_batched_do_not_mix(kind):
    case = draw(kind, T, 1, INPUTS, H, num_layers=L)
    (x, state, _), _, (dy, dstate) = case.arguments()
    (row, row_state, _), _, _ = case.arguments("unbatched")
    module, W = case.module(), case.width
    for call in (module, module.forward):
        with refused(ValueError, f"h: expected shape ({L}, {W})", f"got ({L}, 1, {W})"):
            call(row, state)
        with refused(ValueError, f"h: expected shape ({L}, 1, {W})", f"got ({L}, {W})"):
            call(x, row_state)
    *_, tape = module.forward(row, row_state)
    with refused(ValueError, f"dy: expected shape ({T}, {W})", f"got ({T}, 1, {W})"):
        module.backward(tape, dy)
    with refused(ValueError, f"dh: expected shape ({L}, {W})", f"got ({L}, 1, {W})"):
        module.backward(tape, dy[:, 0], dstate)


@kinds
def test_batch_first_is_not_guessed(kind):
    case = draw(kind, T, B, INPUTS, H)
    module = case.module(batch_first=True)
    with refused(ValueError, f"h: expected shape (1, {T}, {case.width})", f"got (1, {B}, {case.width})"):
        module(case.x, structured(case.states))
    with refused(ValueError, f"lengths: expected shape ({T},)", f"got ({B},)"):
        module(case.x, None, np.full(B, B))
    with refused(ValueError, f"reset: expected shape ({T}, {B})", f"got ({B}, {T})"):
        module(case.x, reset=np.zeros((B, T), bool))


@pytest.mark.parametrize("kind", ["lstm", "peephole_lstm", "coupled_lstm"])
def test_wrong_structure_of_state_is_refused_by_lstm(kind):
    arguments, array = Arguments(kind), float32(L, B, H)
    for refuse, name in ((arguments.refuse_forward, "state"), (arguments.refuse_backward, "dstate")):
        for value in (array, {"h": array, "c": array}, np.zeros((2, L, B, H), np.float32)):
            refuse(TypeError, f"{name}: expected a tuple (", f"got {type(value).__name__}", **{name: value})
        for count in (0, 1, 3):
            items = (array,) * count
            refuse((TypeError, ValueError), f"{name}: expected a tuple (", f"got {count} items", **{name: items})
    arguments.refuse_forward(TypeError, "c: expected", "got None", c=None)


@pytest.mark.parametrize("kind", ["gru", "gru_reset_before"])
def test_wrong_structure_of_state_is_refused_by_gru(kind):
    arguments, array = Arguments(kind), float32(L, B, H)
    arguments.refuse_forward(TypeError, "h: expected", "got tuple", state=(array, array))
    arguments.refuse_backward(TypeError, "dh: expected", "got tuple", dstate=(array, array))


# ---- lengths and resets

LENGTHS = {
    "floats": (np.full(B, 2.0), TypeError, "float64"),
    "a list of floats": ([1, 2, 3, 2.5], TypeError, "float64"),
    "flags": (np.ones(B, bool), TypeError, "bool"),
    "objects": (np.array([1, 2, 3, None]), TypeError, "object"),
    "text": ("1234", TypeError, ""),
    "too many": (np.full(B + 1, 2), ValueError, f"({B + 1},)"),
    "too few": (np.full(B - 1, 2), ValueError, f"({B - 1},)"),
    "a column": (np.full((B, 1), 2), ValueError, f"({B}, 1)"),
    "a number": (2, ValueError, "()"),
    "above time": (np.array([1, T, T + 1, 2]), ValueError, f"{T + 1}"),
    "far above time": (np.array([1, T, 2**63 + 5, 2], np.uint64), ValueError, f"{2**63 + 5}"),
    "negative": (np.array([1, -1, T, 2], np.int8), ValueError, "-1"),
}


@pytest.mark.parametrize("wrong", LENGTHS)
def test_wrong_lengths_are_refused(arguments, wrong):
    value, error, got = LENGTHS[wrong]
    arguments.refuse_forward(error, "lengths: expected", "got", got, lengths=value)


RESETS = {
    "integers": (np.zeros((T, B), np.int64), TypeError, "int64"),
    "floats": (np.zeros((T, B), np.float32), TypeError, "float32"),
    "objects": (np.zeros((T, B), object), TypeError, "object"),
    "batch first": (np.zeros((B, T), bool), ValueError, f"({B}, {T})"),
    "a column": (np.zeros((T, B, 1), bool), ValueError, f"({T}, {B}, 1)"),
    "steps": (np.zeros(T, bool), ValueError, f"({T},)"),
    "rows": (np.zeros(B, bool), ValueError, f"({B},)"),
    "a flag": (True, ValueError, "()"),
}


@pytest.mark.parametrize("wrong", RESETS)
def test_wrong_reset_is_refused(arguments, wrong):
    value, error, got = RESETS[wrong]
    arguments.refuse_forward(error, "reset: expected", "got", got, reset=value)


@kinds
def test_reset_of_two_directions_is_refused(kind):
    Arguments(kind, bidirectional=True).refuse_forward(
        ValueError, "reset: expected", "bidirectional", reset=np.zeros((T, B), bool)
    )


# ---- options of forward, and tapes


@kinds
@pytest.mark.parametrize("tape", ["none", "FULL", None, True, 1, "", ["full"]], ids=repr)
def test_unknown_tape_is_refused(kind, tape):
    module = MODULES[kind](INPUTS, H, rng=0)
    for call in (partial(module.forward, float32(T, B, INPUTS), tape=tape), partial(module.tape_bytes, T, B, tape)):
        with refused((TypeError, ValueError), "tape: expected 'full' or 'lean'", f"got {tape!r}"):
            call()


@kinds
@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "1", [1]], ids=repr)
def test_wrong_seed_is_refused(kind, seed):
    module = MODULES[kind](INPUTS, H, L, dropout=0.5, rng=0)
    with refused((TypeError, ValueError), "seed: expected", f"got {seed!r}"):
        module.forward(float32(T, B, INPUTS), seed=seed)


@kinds
@pytest.mark.parametrize(("name", "values"), [("T", (-1, 4)), ("B", (4, -1)), ("T", (1.5, 4)), ("B", (4, True))])
def test_wrong_sizes_of_a_tape_are_refused(kind, name, values):
    with refused((TypeError, ValueError), name):
        MODULES[kind](INPUTS, H, rng=0).tape_bytes(*values)


@pytest.mark.parametrize("tape", [None, "full", (), float32(T, B, H)], ids=lambda tape: type(tape).__name__)
def test_what_is_no_tape_is_refused(arguments, tape):
    arguments.refuse_backward(TypeError, "tape: expected", f"got {type(tape).__name__}", tape=tape)


def test_tape_of_a_cell_is_refused(arguments):
    cell = draw_step("lstm", B, INPUTS, H).cell()
    _, tape = cell(float32(B, INPUTS), tape=True)
    arguments.refuse_backward(TypeError, "tape: expected", tape=tape)


OTHERS = {
    "kind": lambda kind: draw("gru" if kind == "lstm" else "lstm", T, B, INPUTS, H, num_layers=L),
    "inputs": lambda kind: draw(kind, T, B, INPUTS + 1, H, num_layers=L),
    "width": lambda kind: draw(kind, T, B, INPUTS, H + 1, num_layers=L),
    "layers": lambda kind: draw(kind, T, B, INPUTS, H, num_layers=L + 1),
    "directions": lambda kind: draw(kind, T, B, INPUTS, H, num_layers=L, bidirectional=True),
    "bias": lambda kind: draw(kind, T, B, INPUTS, H, num_layers=L, bias=False),
    "dtype": lambda kind: draw(kind, T, B, INPUTS, H, np.float64, num_layers=L),
}


@pytest.mark.parametrize("other", OTHERS)
def test_tape_of_another_module_is_refused(arguments, other):
    case = OTHERS[other](arguments.case.kind)
    module = case.module()
    *_, tape = module.forward(case.x)
    arguments.refuse_backward(ValueError, "tape: expected", "got", tape=tape)
    module.backward(tape, case.dy)  # its own module takes it still


def test_spent_tape_is_refused(arguments):
    spent = arguments.tape()
    arguments.backward(spent, out=None)
    arguments.refuse_backward(ValueError, "tape: expected", "spent", tape=spent)


# ---- where weight gradients go


def test_accumulate_without_out_is_refused(arguments):
    arguments.refuse_backward(ValueError, "accumulate: expected", "out", "got None", out=None, accumulate=True)


OUT_NAMES = {
    "a missing name": lambda out: dict(list(out.items())[:-1]),
    "no name": lambda _: {},
    "an unknown name": lambda out: out | {"weight_ih_l7": float32(3)},
    "another name": lambda out: {name.replace("_l1", "_l2"): array for name, array in out.items()},
    "names of a cell": lambda out: {name.removesuffix("_l0"): array for name, array in out.items()},
    "a list": lambda out: list(out.values()),
    "a tuple of pairs": lambda out: tuple(out.items()),
    "an array": lambda _: float32(3),
    "text": lambda _: "weight_ih_l0",
}


@pytest.mark.parametrize("names", OUT_NAMES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_out_of_other_names_is_refused(arguments, names, accumulate):
    out = OUT_NAMES[names](arguments.out)
    arguments.refuse_backward((TypeError, ValueError), "out: expected", out=out, accumulate=accumulate)


def read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view


OUT_ARRAYS = {
    "shape": (lambda a: float32(*(n + 1 for n in a.shape)), ValueError, "expected shape"),
    "one dimension more": (lambda a: a[None], ValueError, "expected shape"),
    "flat": (lambda a: float32(a.size + 1), ValueError, "expected shape"),
    "float64": (lambda a: a.astype(np.float64), TypeError, "expected"),
    "integers": (lambda a: a.astype(np.int32), TypeError, "expected"),
    "byte order": (lambda a: a.astype(">f4"), TypeError, "expected"),
    "list": (lambda a: a.tolist(), TypeError, "expected"),
    "none": (lambda _: None, TypeError, "expected"),
    "read-only": (read_only, ValueError, "expected a writeable array"),
    "apart": (lambda a: np.repeat(a, 2, axis=-1)[..., ::2], ValueError, "expected a C-contiguous array"),
    "misaligned": (lambda a: misaligned(*a.shape), ValueError, "expected elements aligned"),
}


@pytest.mark.parametrize("wrong", OUT_ARRAYS)
@pytest.mark.parametrize("name", ["weight_ih_l0", "bias_hh_l1"])
def test_out_that_does_not_fit_is_refused(arguments, name, wrong):
    make, error, message = OUT_ARRAYS[wrong]
    out = arguments.out | {name: make(arguments.out[name])}
    arguments.refuse_backward(error, f"out['{name}']: {message}", "got", out=out)


OVERLAPS = {
    "another": lambda a: {"weight_hh_l1": a.out["weight_hh_l0"]},
    "part of another": lambda a: {"bias_ih_l0": a.out["weight_hh_l1"].reshape(-1)[5 : 5 + len(a.out["bias_ih_l0"])]},
    "a weight": lambda a: {"weight_hh_l1": a.module.weights["weight_hh_l1"]},
    "the weights": lambda a: dict(a.module.weights),
    "dy": lambda a: {"bias_ih_l0": a.case.dy.reshape(-1)[: len(a.out["bias_ih_l0"])]},
    "x": lambda a: {"bias_ih_l0": a.case.x.reshape(-1)[: len(a.out["bias_ih_l0"])]},
}


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_out_that_overlaps_is_refused(arguments, overlap):
    """What it would change is read later: another gradient, the weights, the gradients that come in, the input."""
    out = arguments.out | OVERLAPS[overlap](arguments)
    arguments.refuse_backward(ValueError, "", "expected memory of its own", "overlap with", out=out)


# ---- construction


@classes
@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize("size", [0, -1, 2.0, True, None, "3", np.array([3])], ids=repr)
def test_size_that_is_no_positive_integer_is_refused(cls, name, size):
    sizes = {"input_size": 3, "hidden_size": 4} | {name: size}
    with refused(ValueError, f"{name} must be an integer from 1 on, got {size!r}"):
        cls(**sizes)


@classes
@pytest.mark.parametrize("dropout", [1, 1.0, -0.1, np.nan, np.inf, True, None, "0.5", [0.5]], ids=repr)
def test_dropout_that_is_no_probability_below_one_is_refused(cls, dropout):
    with refused((TypeError, ValueError), "dropout must be", f"got {dropout!r}"):
        cls(3, 4, 2, dropout=dropout)


@classes
@pytest.mark.parametrize("dtype", ["float16", int, object, ">f8"])
def test_dtype_that_no_kernel_has_is_refused(cls, dtype):
    with refused(TypeError, f"dtype must be float32 or float64, got {np.dtype(dtype)}"):
        cls(3, 4, dtype=dtype)


@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, name) for cls in (LSTM, GRU) for name in ("bias", "batch_first", "bidirectional")]
    + [(LSTM, "peephole"), (GRU, "reset_after")],
)
@pytest.mark.parametrize("flag", [1, None, "no", np.array([True])], ids=repr)
def test_flag_that_is_none_is_refused(cls, name, flag):
    with refused(TypeError, f"{name} must be True or False, got {flag!r}"):
        cls(3, 4, **{name: flag})


@classes
def test_options_are_keywords_that_exist(cls):
    with pytest.raises(TypeError):
        cls(3, 4, 2, False)
    with pytest.raises(TypeError):
        cls(3)
    for other in {LSTM: ["reset_after"], GRU: ["peephole", "proj_size"]}[cls]:
        with pytest.raises(TypeError, match=other):
            cls(3, 4, **{other: 1})


@pytest.mark.parametrize("size", [-1, 4, 5, 2.0, True, None, "2", np.array([2])], ids=repr)
def test_projection_that_is_no_integer_below_the_units_is_refused(size):
    with refused(ValueError, "proj_size must be an integer from 0 on and smaller than hidden_size=4", f"got {size!r}"):
        LSTM(3, 4, proj_size=size)


# ---- weights

NAME = "bias_hh_l1"  # the last: those before it would have been copied

LOADS = {
    "a missing name": (lambda w: {n: a for n, a in w.items() if n != NAME}, ValueError, NAME),
    "an unknown name": (lambda w: w | {"weight_hr_l0": float32(3, 4)}, ValueError, "weight_hr_l0"),
    "nothing": (lambda _: {}, ValueError, NAME),
    "names of a cell": (lambda w: {n.removesuffix("_l0"): a for n, a in w.items()}, ValueError, "weight_ih_l0"),
    "a number for a name": (lambda w: w | {3: float32(3)}, ValueError, "3"),
    "shape": (lambda w: w | {NAME: float32(len(w[NAME]) + 1)}, ValueError, f"{NAME}"),
    "one dimension more": (lambda w: w | {NAME: w[NAME][None]}, ValueError, f"{NAME}"),
    "one number": (lambda w: w | {NAME: float32(1)}, ValueError, f"{NAME}"),
    "integers": (lambda w: w | {NAME: w[NAME].astype(int)}, TypeError, f"{NAME}"),
    "objects": (lambda w: w | {NAME: w[NAME].astype(object)}, TypeError, f"{NAME}"),
    "list": (lambda w: w | {NAME: w[NAME].tolist()}, TypeError, f"{NAME}"),
    "none": (lambda w: w | {NAME: None}, TypeError, f"{NAME}"),
    "no mapping": (lambda w: list(w.values()), TypeError, "list"),
    "an array": (lambda w: w[NAME], TypeError, "ndarray"),
}


@pytest.mark.parametrize("wrong", LOADS)
def test_wrong_weights_are_refused_and_none_is_loaded(arguments, wrong):
    make, error, part = LOADS[wrong]
    weights = {name: array + 1 for name, array in arguments.case.weights.items()}
    with refused(error, "weights", part, unchanged=arguments.arrays()):
        arguments.module.load(make(weights))


def test_frozen_module_does_not_load(arguments):
    module = arguments.module.freeze()
    with refused(ValueError, "weights", "frozen", unchanged=arguments.arrays()):
        module.load({name: array + 1 for name, array in arguments.case.weights.items()})
    assert_same_bits(list(arguments.case.infer(module).values()), list(arguments.case.infer().values()))


def test_frozen_module_refuses_as_others_do(arguments):
    arguments.module.freeze()
    arguments.refuse_forward(ValueError, "x: expected shape", x=float32(T, B, INPUTS + 1))
    arguments.refuse_forward(TypeError, "h: expected", "float64", h=np.zeros((L, B, H)))
    arguments.refuse_backward(ValueError, "dy: expected shape", dy=float32(T, B, H + 1))


# ---- streams


@kinds
@pytest.mark.parametrize("name", ["batch", "threads"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "1"], ids=repr)
def test_stream_of_no_size_is_refused(kind, name, value):
    with refused(ValueError, f"{name} must be an integer from 1 on, got {value!r}"):
        MODULES[kind](INPUTS, H, rng=0).stream(**{name: value})


@kinds
def test_stream_of_two_directions_is_refused(kind):
    with refused(ValueError, "stream: expected", "bidirectional"):
        MODULES[kind](INPUTS, H, bidirectional=True, rng=0).stream()


# What takes the place of an argument, of `out` by the width of h.
STEPS = {
    "width": ({"x": float32(B, INPUTS + 1)}, ValueError, "x: expected shape"),
    "rows": ({"x": float32(B + 1, INPUTS)}, ValueError, "x: expected shape"),
    "vector": ({"x": float32(INPUTS)}, ValueError, "x: expected shape"),
    "sequence": ({"x": float32(1, B, INPUTS)}, ValueError, "x: expected shape"),
    "float64": ({"x": np.zeros((B, INPUTS))}, TypeError, "x: expected"),
    "list": ({"x": [[0.0] * INPUTS] * B}, TypeError, "x: expected"),
    "none": ({"x": None}, TypeError, "x: expected"),
    "columns apart": ({"x": float32(B, 2 * INPUTS)[:, ::2]}, ValueError, "x: expected"),
    "out of other width": ({"out": lambda W: float32(B, W + 1)}, ValueError, "out: expected shape"),
    "out of no batch": ({"out": float32}, ValueError, "out: expected shape"),
    "out of float64": ({"out": lambda W: np.zeros((B, W))}, TypeError, "out: expected"),
    "out apart": ({"out": lambda W: float32(B, 2 * W)[:, :W]}, ValueError, "out: expected a C-contiguous"),
    "read-only out": ({"out": lambda W: read_only(float32(B, W))}, ValueError, "out: expected a writeable"),
    "list for out": ({"out": lambda W: [[0.0] * W] * B}, TypeError, "out: expected"),
}


@pytest.mark.parametrize("wrong", STEPS)
def test_wrong_step_of_a_stream_is_refused_and_the_state_stays(arguments, wrong):
    replaced, error, message = STEPS[wrong]
    stream = arguments.module.stream(batch=B)
    stream.step(arguments.case.x[0])
    replaced = {name: value(arguments.width) if callable(value) else value for name, value in replaced.items()}
    values = {"x": arguments.case.x[0], "out": float32(B, arguments.width)} | replaced
    arrays = [array for array in values.values() if isinstance(array, np.ndarray)]
    with refused(error, message, unchanged=[*arrays, *arrays_of(stream.state)]):
        stream.step(**values)


def test_out_of_a_stream_that_overlaps_is_refused(arguments):
    stream, case = arguments.module.stream(batch=B), arguments.case
    stream.step(case.x[0])
    room = float32(B * case.width)
    overlap = "out: expected memory of its own", "overlap with"
    unchanged = [*arrays_of(stream.state), room]
    with refused(ValueError, *overlap, unchanged=unchanged):
        stream.step(room[: B * INPUTS].reshape(B, INPUTS), out=room.reshape(B, case.width))
    with refused(ValueError, *overlap, unchanged=unchanged):
        stream.step(case.x[0], out=arrays_of(stream.state)[0][0])


@pytest.mark.parametrize("rows", [B, -B - 1, [0, B]], ids=repr)
def test_reset_of_rows_that_a_stream_lacks_is_refused(arguments, rows):
    stream = arguments.module.stream(batch=B)
    stream.step(arguments.case.x[0])
    before = [array.copy() for array in arrays_of(stream.state)]
    with pytest.raises(IndexError, match="out of bounds"):
        stream.reset(rows)
    assert_same_bits(list(arrays_of(stream.state)), before)


# ---- what is no error


@kinds
@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "directions"])
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_empty_sequence_passes_the_state_on(kind, steps, rows, bidirectional, tape):
    given = {"reset": not bidirectional, "shortest": 0}
    case = draw(kind, steps, rows, INPUTS, H, num_layers=L, bidirectional=bidirectional, **given)
    dropped = case.run(case.module(dropout=0.5), tape=tape)
    for results in (case.run(tape=tape), dropped, case.infer(), case.run(layout="batch first", tape=tape)):
        assert results["y"].shape == case.dy.shape
        assert_same_bits([results[name] for name in "hc" if name in results], case.states)
    results = case.run(tape=tape)
    assert results["dx"].shape == case.x.shape
    assert_same_bits([results[f"d{name}"] for name in "hc" if f"d{name}" in results], case.dstates)
    for name, weight in case.weights.items():
        assert results[name].shape == weight.shape
        assert not results[name].any(), name
    kept = {name: np.full_like(w, 7) for name, w in case.weights.items()}
    case.run(out=kept, accumulate=True)
    assert all((array == 7).all() for array in kept.values())
    assert case.module().tape_bytes(steps, rows, tape) == 0


@kinds
def test_empty_unbatched_sequence_passes_the_state_on(kind):
    case = draw(kind, 0, 1, INPUTS, H, num_layers=L)
    results = case.run(layout="unbatched")
    assert_same_bits([results[name] for name in "hc" if name in results], case.states)


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_value_that_is_not_finite_stays_in_its_row(kind, dtype, value):
    case = draw(kind, T, 20, INPUTS, H, dtype, num_layers=L)
    desired = case.run()
    case.x[2, 5, 3] = value
    actual, others = case.run(), np.arange(20) != 5
    for name in actual.keys() - case.weights.keys():
        assert_same_bits([actual[name][:, others]], [desired[name][:, others]])
    assert_same_bits([actual["y"][:2]], [desired["y"][:2]])  # nor does it reach the steps before
    if np.isnan(value):
        assert np.isnan(actual["y"][2:, 5]).all()
        assert all(np.isnan(actual[name]).any() for name in (*case.weights, "dx"))
    else:
        assert np.isfinite(actual["y"]).all() == ("norm" not in kind)  # gates saturate; no row with an inf has a mean


@kinds
def test_tensor_on_another_device_or_in_bfloat16_is_refused(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: no tensors of another library")
    arguments = Arguments(kind)
    for tensor in (torch.zeros(T, B, INPUTS, device="meta"), torch.zeros(T, B, INPUTS, dtype=torch.bfloat16)):
        arguments.refuse_forward(
            TypeError, "x: expected a float32 or float64 array in CPU memory, got Tensor", x=tensor
        )


def test_optimizer_of_a_frozen_module_names_the_weight(arguments):
    with refused(ValueError, "params", "weight_ih_l0", "read-only", unchanged=arguments.arrays()):
        fusedstep.optim.Adam(arguments.module.freeze().weights)
