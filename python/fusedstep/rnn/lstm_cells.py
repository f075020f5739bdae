"""LSTM cell, with optional peepholes and coupled gates: functional forms, the object and the references."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fusedstep import _core, _cost
from fusedstep._array import Array
from fusedstep.rnn._base import Cell, Gradients, Tape, any_on_cuda, backward, step_on_cuda, taped


def kind_of(peephole: bool, coupled: bool) -> str:
    """Name the compiled cell."""
    return "coupled_" * bool(coupled) + "peephole_" * bool(peephole) + "lstm"


def unit_flops(peephole: bool, coupled: bool) -> tuple[int, int]:
    """Count the operations on one hidden unit of one row, without products: forward, and backward.

    Forward: the gates' nonlinearities, c' 3, h' 1; coupled, one gate less and 1 - f; two for each peephole. Backward:
    tanh(c'), o 4, c 5, i 4, f 4, g 4, dc 1; coupled, c - g and 1 - f in i's place; two for each peephole.
    """
    peepholes = (3 - coupled) * peephole
    forward = (3 - coupled) * _cost.SIGMOID + 2 * _cost.TANH + 4 + coupled + 2 * peepholes
    return forward, _cost.TANH + 22 - 2 * coupled + 2 * peepholes


def lstm_cell(
    x: Any,
    state: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    weight_ch: Any = None,
    *,
    coupled: bool = False,
    out: Any = None,
    tape: bool = False,
) -> Any:
    """Take one LSTM step.

    ``i, f, g, o = W_ih x + b_ih + W_hh h + b_hh``; ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``;
    ``h' = sigmoid(o) tanh(c')``. With peepholes i and f see c, and o sees c'. With `coupled` there is no i: 1 -
    sigmoid(f) stands in the place of sigmoid(i).

    Parameters
    ----------
    x : array_like
        (batch, I) or (I,), float32 or float64; rows may lie apart.
    state : tuple of array_like or None
        (h, c), each (batch, H) or (H,); None for zeros.
    weight_ih, weight_hh : array_like
        (4H, I) and (4H, H), gates i f g o, C-contiguous: torch's layout. With `coupled` 3H rows, f g o.
    bias_ih, bias_hh : array_like, optional
        (4H,), or (3H,).
    weight_ch : array_like, optional
        (3, H), peepholes in the order i f o; with `coupled` (2, H), f o.
    coupled : bool, optional
        Couple the input gate to the forget gate. (ONNX's input_forget couples the other way.)
    out : tuple of array_like, optional
        (h, c) to write to, C-contiguous; may be `state` itself.
    tape : bool, optional
        Return also what `lstm_cell_backward` needs.

    Returns
    -------
    (h, c) : tuple of ndarray
        The new state; with `tape`, a pair ((h, c), Tape).

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing was written.

    Notes
    -----
    Weights are packed on the way, each panel used at once. `LSTMCell.freeze` packs them once.

    References
    ----------
    .. [1] Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
    .. [2] Gers and Schmidhuber, "Recurrent Nets that Time and Count", IJCNN 2000 (peepholes).
    .. [3] Greff et al., "LSTM: A Search Space Odyssey", IEEE TNNLS 28(10), 2017 (coupled gates).

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import lstm_cell
    >>> rng = np.random.default_rng(0)
    >>> x, h, c = rng.normal(size=(2, 3)), np.zeros((2, 4)), np.zeros((2, 4))
    >>> h, c = lstm_cell(x, (h, c), rng.normal(size=(16, 3)), rng.normal(size=(16, 4)))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """
    weights = {
        "weight_ih": weight_ih,
        "weight_hh": weight_hh,
        "bias_ih": bias_ih,
        "bias_hh": bias_hh,
        "weight_ch": weight_ch,
    }
    kind = kind_of(weight_ch is not None, coupled)
    try:
        if not tape:
            return _core.cell_forward(kind, weights, x, state, out, False)
        return taped(kind, weights, x, state, out, partial(_core.cell_forward, kind, weights))
    except TypeError:
        if not any_on_cuda(weights, x, state, out):
            raise
    return step_on_cuda(kind, weights, x, state, out, tape)


def lstm_cell_backward(tape: Tape, dh: Any, dc: Any = None) -> Gradients:
    """Run an LSTM step backward.

    Parameters
    ----------
    tape : Tape
        What the forward call returned.
    dh, dc : array_like or None
        Gradients of the new h and c, (batch, H) or (H,); None for zeros.

    Returns
    -------
    Gradients
        `x`, `state` = (dh, dc) of the state before, and `weights` by name.

    Raises
    ------
    ValueError, TypeError
        A gradient does not fit; the message names it.

    Notes
    -----
    Sums over the batch are taken in blocks of 64 rows, added in order within each 1024: the same bits for any number of
    threads.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import lstm_cell, lstm_cell_backward
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = rng.normal(size=(2, 3)), rng.normal(size=(16, 3)), rng.normal(size=(16, 4))
    >>> (h, c), tape = lstm_cell(x, None, w_ih, w_hh, tape=True)
    >>> g = lstm_cell_backward(tape, np.ones_like(h))
    >>> g.x.shape, g.weights["weight_ih"].shape
    ((2, 3), (16, 3))
    """
    return backward(tape, dh, dc)


class LSTMCell(Cell):
    """An LSTM cell that owns its weights: ``h, c = cell(x, (h, c))``.

    Parameters
    ----------
    input_size, hidden_size : int
        Widths I and H.
    bias : bool, optional
        Whether there are ``bias_ih`` and ``bias_hh``.
    peephole : bool, optional
        Whether there is ``weight_ch``.
    coupled : bool, optional
        The input gate is 1 minus the forget gate; the weights are those of the gates f g o.
    dtype : dtype, optional
        float32 or float64.
    rng : int or numpy.random.Generator, optional
        Where the initial weights come from: uniform in ±1/sqrt(hidden_size), as torch.

    References
    ----------
    .. [1] Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import LSTMCell
    >>> cell = LSTMCell(3, 4, rng=0).freeze()
    >>> h, c = cell(np.ones((2, 3), dtype=np.float32))
    >>> h.shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        peephole: bool = False,
        coupled: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        super().__init__(kind_of(peephole, coupled), input_size, hidden_size, bias, dtype, rng)

    def backward(self, tape: Tape, dh: Any, dc: Any = None) -> Gradients:
        """Run a taped step backward: `lstm_cell_backward`."""
        return backward(tape, dh, dc)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), without overflow."""
    e: Array = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, e) / (1 + e)
    return result


def lstm_cell_reference(
    x: Array,
    state: tuple[Array, Array],
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | float = 0.0,
    bias_hh: Array | float = 0.0,
    weight_ch: Array | None = None,
    *,
    coupled: bool = False,
) -> tuple[Array, Array]:
    """Take one LSTM step in NumPy: `lstm_cell` as its formulas read.

    Parameters
    ----------
    x : ndarray
        (batch, I) or (I,), any floating dtype.
    state : tuple of ndarray
        (h, c), each (batch, H) or (H,).
    weight_ih, weight_hh, bias_ih, bias_hh, weight_ch : ndarray, optional
        As for `lstm_cell`.
    coupled : bool, optional
        Likewise.

    Returns
    -------
    (h, c) : tuple of ndarray
        The new state.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import lstm_cell_reference
    >>> h, c = lstm_cell_reference(np.ones(3), (np.zeros(4), np.ones(4)), np.zeros((16, 3)), np.zeros((16, 4)))
    >>> c
    array([0.5, 0.5, 0.5, 0.5])
    """
    return _reference_step(x, state, weight_ih, weight_hh, bias_ih, bias_hh, weight_ch, coupled=coupled)[0]


def _reference_step(
    x: Array,
    state: tuple[Array, Array],
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | float = 0.0,
    bias_hh: Array | float = 0.0,
    weight_ch: Array | None = None,
    *,
    coupled: bool = False,
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """Return the new (h, c), and the gates i, f, g, o after their nonlinearities."""
    h, c = state
    *w_in, w_o = np.zeros((3 - coupled, 1), x.dtype) if weight_ch is None else weight_ch
    *gates_in, g, o = np.split(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh, 4 - coupled, axis=-1)
    gates = [sigmoid(a + w * c) for a, w in zip(gates_in, w_in, strict=True)]
    f, g = gates[-1], np.tanh(g)
    i = 1 - f if coupled else gates[0]
    c = f * c + i * g
    o = sigmoid(o + w_o * c)
    return (o * np.tanh(c), c), (i, f, g, o)


def lstm_cell_backward_reference(
    x: Array,
    state: tuple[Array, Array],
    weights: Mapping[str, Array],
    dh: Array | float,
    dc: Array | float = 0.0,
    *,
    coupled: bool = False,
) -> Gradients:
    """Run one LSTM step backward in NumPy; the step itself is taken again first.

    Parameters
    ----------
    x : ndarray
        (batch, I), any floating dtype.
    state : tuple of ndarray
        (h, c) before the step, each (batch, H).
    weights : mapping
        By name; absent ones missing.
    dh, dc : ndarray or float, optional
        Gradients of the new h and c, (batch, H).
    coupled : bool, optional
        As for `lstm_cell`.

    Returns
    -------
    Gradients
        As `lstm_cell_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import lstm_cell_backward_reference
    >>> weights = {"weight_ih": np.zeros((16, 3)), "weight_hh": np.zeros((16, 4))}
    >>> g = lstm_cell_backward_reference(np.ones((2, 3)), (np.zeros((2, 4)), np.zeros((2, 4))), weights, 1.0)
    >>> g.weights["weight_ih"].shape
    (16, 3)
    """
    h, c = state
    (_, c_next), (i, f, g, o) = _reference_step(x, state, **weights, coupled=coupled)
    *w_in, w_o = weights.get("weight_ch", np.zeros((3 - coupled, 1), x.dtype))
    t = np.tanh(c_next)
    da_o = dh * t * o * (1 - o)
    dc = dc + dh * o * (1 - t * t) + da_o * w_o
    da_i, da_f, da_g = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g)
    da_in = [da_f - da_i] if coupled else [da_i, da_f]
    da = np.concatenate([*da_in, da_g, da_o], axis=-1)
    peepholes = [(d * seen).sum(axis=0) for d, seen in zip([*da_in, da_o], [c] * len(da_in) + [c_next], strict=True)]
    all_weights = {
        "weight_ih": da.T @ x,
        "weight_hh": da.T @ h,
        "bias_ih": da.sum(axis=0),
        "bias_hh": da.sum(axis=0),
        "weight_ch": np.stack(peepholes),
    }
    dstate = da @ weights["weight_hh"], dc * f + sum(d * w for d, w in zip(da_in, w_in, strict=True))
    return Gradients(da @ weights["weight_ih"], dstate, {name: all_weights[name] for name in weights})
