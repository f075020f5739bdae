"""What does not fit is refused by one clear error, and nothing is written."""

import numpy as np
import pytest
from fusedstep import loss
from fusedstep.loss import custom
from optim.refusal import float32, misaligned, read_only, refused

from loss.methods import METHODS

ELEMENTWISE = {m.name: m for m in METHODS}
SQUARE = custom(lambda pred, target, scale=1.0: scale * (pred - target) ** 2)


@pytest.mark.parametrize("name", [*ELEMENTWISE, "custom", "cross_entropy", "nll"])
def test_input_and_out_are_checked(name):
    rows = name in ("cross_entropy", "nll")
    f = SQUARE if name == "custom" else getattr(loss, name)
    called = "pred" if name == "custom" else "input"
    target = np.zeros(3, int) if rows else 0.5
    x, out = float32(3, 4), float32(3, 4)

    def case(error, message, *args, **options):
        with refused(error, message, x, out):
            f(*args, **options)

    case(TypeError, f"{called}: expected a float32 or float64 array, got dtype int64", np.ones((3, 4), int), target)
    case(TypeError, f"{called}: expected a float32 or float64 array in CPU memory, got list", [[1.0]], target)
    case(ValueError, f"{called}: expected a C-contiguous array, got shape (3, 2)", x[:, ::2], target)
    case(ValueError, f"{called}: expected elements aligned", misaligned(12).reshape(3, 4), target)
    case(ValueError, "out: expected shape (3, 4), got (4, 3)", x, target, out=float32(4, 3))
    case(TypeError, "out: expected dtype float32, got float64", x, target, out=np.ones((3, 4)))
    case(ValueError, "out: expected a writeable array", x, target, out=read_only(12).reshape(3, 4))
    case(ValueError, "out: expected a C-contiguous array", x, target, out=float32(4, 3).T)
    both = float32(24)
    case(
        ValueError,
        "out: expected memory of its own, got an overlap with input",
        both[:12].reshape(3, 4),
        target,
        out=both[6:18].reshape(3, 4),
    )
    case(ValueError, "out: expected None where grad=False", x, target, out=out, grad=False)
    case(ValueError, "reduction: expected one of 'none', 'sum', 'mean', ", x, target, reduction="max")


@pytest.mark.parametrize("name", [*ELEMENTWISE, "custom"])
def test_target_must_broadcast(name):
    f = SQUARE if name == "custom" else ELEMENTWISE[name]
    x, out = float32(3, 4), float32(3, 4)
    with refused(ValueError, "target: expected a shape that broadcasts to (3, 4), got (3,)", out):
        f(x, float32(3), out=out)
    with refused(ValueError, "target: expected a shape that broadcasts to (3, 4), got (1, 3, 4)", out):
        f(x, float32(1, 3, 4), out=out)
    with refused(TypeError, "target: expected dtype float32, int32, int64, uint8 or bool, got float64", out):
        f(x, np.ones((3, 4)), out=out)
    with refused(ValueError, "out: expected memory of its own, got an overlap with target", out):
        f(x, out, out=out)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("huber", {"delta": 0}, ValueError, "delta must be in (0, inf), got 0"),
        ("huber", {"delta": "1"}, TypeError, "delta: expected a number, got str"),
        ("smooth_l1", {"beta": -1}, ValueError, "beta must be in [0, inf), got -1"),
        ("focal", {"alpha": 2}, ValueError, "alpha must be in [0, 1], got 2"),
        ("focal", {"gamma": np.nan}, ValueError, "gamma must be in [0, inf), got nan"),
        ("hinge", {"margin": np.inf}, ValueError, "margin must be in [0, inf), got inf"),
        ("mse", {"weight": float32(5)}, ValueError, "weight: expected a shape that broadcasts to (3, 4), got (5,)"),
        ("binary_cross_entropy_with_logits", {"pos_weight": float32(3)}, ValueError, "pos_weight: expected a shape"),
    ],
)
def test_options_are_checked(name, options, error, message):
    out = float32(3, 4)
    with refused(error, message, out):
        getattr(loss, name)(float32(3, 4), 0.5, out=out, **options)


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ([0, 4, 1], {}, ValueError, "target: expected classes from 0 to 3 or ignore_index (-100), got 4 in row 1"),
        ([0, 1, -1], {}, ValueError, "target: expected classes from 0 to 3 or ignore_index (-100), got -1 in row 2"),
        ([0, 1], {}, ValueError, "target: expected shape (3,), got (2,)"),
        ([True, False, True], {}, TypeError, "target: expected integer classes of shape (3,), got dtype bool"),
        ([0, 1, 2], {"weight": float32(3)}, ValueError, "weight: expected shape (4,), got (3,)"),
        ([0, 1, 2], {"weight": np.ones(4)}, TypeError, "weight: expected dtype float32, got float64"),
        ([0, 1, 2], {"sample_weight": float32(4)}, ValueError, "sample_weight: expected shape (3,), got (4,)"),
        ([0, 1, 2], {"axis": 2}, ValueError, "axis: expected an axis of input, shape (3, 4), got 2"),
        ([0, 1, 2], {"axis": 1.0}, TypeError, "axis: expected an integer, got float"),
        ([0, 1, 2], {"ignore_index": None}, TypeError, "ignore_index: expected an integer, got NoneType"),
    ],
)
def test_rows_are_checked(target, options, error, message):
    for f in (loss.cross_entropy, loss.nll):
        out = float32(3, 4)
        with refused(error, message, out):
            f(float32(3, 4), np.array(target), out=out, **options)


def test_options_of_cross_entropy_are_checked():
    x, y, out = float32(3, 4), np.zeros(3, int), float32(3, 4)
    for error, message, options in (
        (ValueError, "label_smoothing must be in [0, 1], got 1.5", {"label_smoothing": 1.5}),
        (ValueError, "z_loss must be in [0, inf), got -1", {"z_loss": -1}),
        (ValueError, "out: expected memory of its own, got an overlap with target", {"target": out}),
        (ValueError, "target: expected probabilities of shape (3, 4), got (4, 3)", {"target": float32(4, 3)}),
        (TypeError, "target: expected dtype float32, got float64", {"target": np.ones((3, 4))}),
    ):
        with refused(error, message, out):
            loss.cross_entropy(x, **({"target": y, "out": out} | options))
    with refused(ValueError, "input: expected at least one class, got shape (3, 0)"):
        loss.cross_entropy(float32(3, 0), y)


def test_custom_arguments_are_checked():
    x = float32(3, 4)
    with refused(TypeError, "<lambda> has no parameter gamma; it has scale"):
        SQUARE(x, 0.0, gamma=1.0)
    with refused(ValueError, "wrt: expected names among target, scale, got 'gamma'"):
        SQUARE(x, 0.0, wrt="gamma")
    with refused(ValueError, "wrt: expected none with grad=False"):
        SQUARE(x, 0.0, wrt="scale", grad=False)
    with refused(ValueError, "scale: expected a shape that broadcasts to (3, 4), got (5,)"):
        SQUARE(x, 0.0, scale=float32(5))
    with refused(TypeError, "<lambda>: missing parameter scale"):
        custom(lambda pred, target, scale: scale * (pred - target))(x, 0.0)


def test_tensors_of_torch_are_taken_without_a_copy():
    torch = pytest.importorskip("torch")
    x, y = torch.ones(3, 4), torch.tensor([0, 1, 2])
    out = torch.empty(3, 4)
    value, grad = loss.cross_entropy(x, y, out=out)
    assert grad is out
    expected = torch.nn.functional.cross_entropy(x, y)
    assert value == pytest.approx(float(expected))
    assert loss.mse(x, torch.zeros(4), grad=False) == 1
