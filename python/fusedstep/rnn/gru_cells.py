"""GRU cell, reset after or before the product: functional forms, the object and the references."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fusedstep import _core, _cost
from fusedstep._array import Array
from fusedstep.rnn._base import Cell, Gradients, Tape, any_on_cuda, backward, step_on_cuda, taped
from fusedstep.rnn.lstm_cells import sigmoid

KINDS = ("gru_reset_before", "gru")


def unit_flops(reset_after: bool) -> tuple[int, int]:
    """Count the operations on one hidden unit of one row, without products: forward, and backward.

    Forward: two sigmoids and a tanh, h' 4, and n's share of h 2, or r*h 1. Backward: z 5, n 5, h 1, r 4, and 1 for n's
    gradient by h, or 2 for what passes r*h.
    """
    if reset_after:
        return 2 * _cost.SIGMOID + _cost.TANH + 6, 16
    return 2 * _cost.SIGMOID + _cost.TANH + 5, 17


def gru_cell(
    x: Any,
    h: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    reset_after: bool = True,
    out: Any = None,
    tape: bool = False,
) -> Any:
    """Take one GRU step.

    ``r, z = sigmoid(W_i x + b_i + W_h h + b_h)``; ``h' = (1-z) n + z h`` with
    ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))`` (reset after) or ``tanh(W_in x + b_in + W_hn (r h) + b_hn)``.

    Parameters
    ----------
    x : array_like
        (batch, I) or (I,), float32 or float64; rows may lie apart.
    h : array_like or None
        (batch, H) or (H,); None for zeros.
    weight_ih, weight_hh : array_like
        (3H, I) and (3H, H), gates r z n, C-contiguous: torch's layout.
    bias_ih, bias_hh : array_like, optional
        (3H,).
    reset_after : bool, optional
        True for the GRU of torch and cuDNN (ONNX: linear_before_reset=1), False for that of the paper.
    out : array_like, optional
        Where the new h is written, C-contiguous; may be `h` itself.
    tape : bool, optional
        Return also what `gru_cell_backward` needs.

    Returns
    -------
    h : ndarray
        The new state; with `tape`, a pair (h, Tape).

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing was written.

    References
    ----------
    .. [1] Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
       EMNLP 2014, equations 5 to 8 (reset before).
    .. [2] Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", 2014, and its manual (reset after).

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import gru_cell
    >>> rng = np.random.default_rng(0)
    >>> x, h = rng.normal(size=(2, 3)), np.zeros((2, 4))
    >>> gru_cell(x, h, rng.normal(size=(12, 3)), rng.normal(size=(12, 4))).shape
    (2, 4)
    """
    weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    kind = KINDS[bool(reset_after)]
    try:
        if not tape:
            return _core.cell_forward(kind, weights, x, h, out, False)
        return taped(kind, weights, x, h, out, partial(_core.cell_forward, kind, weights))
    except TypeError:
        if not any_on_cuda(weights, x, h, out):
            raise
    return step_on_cuda(kind, weights, x, h, out, tape)


def gru_cell_backward(tape: Tape, dh: Any) -> Gradients:
    """Run a GRU step backward.

    Parameters
    ----------
    tape : Tape
        What the forward call returned.
    dh : array_like
        Gradient of the new h, (batch, H) or (H,).

    Returns
    -------
    Gradients
        `x`, `state` = dh of the state before, and `weights` by name.

    Raises
    ------
    ValueError, TypeError
        The gradient does not fit; the message names it.

    Notes
    -----
    Sums over the batch are taken in blocks of 64 rows, added in order within each 1024: the same bits for any number of
    threads.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import gru_cell, gru_cell_backward
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = rng.normal(size=(2, 3)), rng.normal(size=(12, 3)), rng.normal(size=(12, 4))
    >>> h, tape = gru_cell(x, None, w_ih, w_hh, tape=True)
    >>> gru_cell_backward(tape, np.ones_like(h)).state.shape
    (2, 4)
    """
    return backward(tape, dh)


class GRUCell(Cell):
    """A GRU cell that owns its weights: ``h = cell(x, h)``.

    Parameters
    ----------
    input_size, hidden_size : int
        Widths I and H.
    bias : bool, optional
        Whether there are ``bias_ih`` and ``bias_hh``.
    reset_after : bool, optional
        As for `gru_cell`.
    dtype : dtype, optional
        float32 or float64.
    rng : int or numpy.random.Generator, optional
        Where the initial weights come from: uniform in ±1/sqrt(hidden_size), as torch.

    References
    ----------
    .. [1] Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
       EMNLP 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import GRUCell
    >>> cell = GRUCell(3, 4, rng=0)
    >>> h = np.zeros((2, 4), dtype=np.float32)
    >>> cell(np.ones((2, 3), dtype=np.float32), h, out=h) is h
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        reset_after: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        super().__init__(KINDS[bool(reset_after)], input_size, hidden_size, bias, dtype, rng)

    def backward(self, tape: Tape, dh: Any) -> Gradients:
        """Run a taped step backward: `gru_cell_backward`."""
        return backward(tape, dh)


def gru_cell_reference(
    x: Array,
    h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | float = 0.0,
    bias_hh: Array | float = 0.0,
    *,
    reset_after: bool = True,
) -> Array:
    """Take one GRU step in NumPy: `gru_cell` as its formulas read.

    Parameters
    ----------
    x : ndarray
        (batch, I) or (I,), any floating dtype.
    h : ndarray
        (batch, H) or (H,).
    weight_ih, weight_hh, bias_ih, bias_hh : ndarray, optional
        As for `gru_cell`.
    reset_after : bool, optional
        As for `gru_cell`.

    Returns
    -------
    h : ndarray
        The new state.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import gru_cell_reference
    >>> gru_cell_reference(np.ones(3), np.ones(4), np.zeros((12, 3)), np.zeros((12, 4)))
    array([0.5, 0.5, 0.5, 0.5])
    """
    return _reference_step(x, h, weight_ih, weight_hh, bias_ih, bias_hh, reset_after=reset_after)[0]


def _reference_step(
    x: Array,
    h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | float = 0.0,
    bias_hh: Array | float = 0.0,
    *,
    reset_after: bool,
) -> tuple[Array, tuple[Array, ...]]:
    """Return the new h, and r, z, n and what r multiplies."""
    H = h.shape[-1]
    b_r, b_z, b_n = np.split(np.broadcast_to(bias_hh, 3 * H), 3)
    W_r, W_z, W_n = np.split(weight_hh, 3)
    i_r, i_z, i_n = np.split(x @ weight_ih.T + bias_ih, 3, axis=-1)
    h_r, h_z = h @ W_r.T + b_r, h @ W_z.T + b_z
    r, z = sigmoid(i_r + h_r), sigmoid(i_z + h_z)
    if reset_after:
        inner = h @ W_n.T + b_n
        n = np.tanh(i_n + r * inner)
    else:
        inner = h
        n = np.tanh(i_n + (r * h) @ W_n.T + b_n)
    return (1 - z) * n + z * h, (r, z, n, inner)


def gru_cell_backward_reference(
    x: Array,
    h: Array,
    weights: Mapping[str, Array],
    dh: Array | float,
    *,
    reset_after: bool = True,
) -> Gradients:
    """Run one GRU step backward in NumPy; the step itself is taken again first.

    Parameters
    ----------
    x : ndarray
        (batch, I), any floating dtype.
    h : ndarray
        (batch, H), before the step.
    weights : mapping
        By name; absent ones missing.
    dh : ndarray or float
        Gradient of the new h, (batch, H).
    reset_after : bool, optional
        As for `gru_cell`.

    Returns
    -------
    Gradients
        As `gru_cell_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import gru_cell_backward_reference
    >>> weights = {"weight_ih": np.zeros((12, 3)), "weight_hh": np.zeros((12, 4))}
    >>> gru_cell_backward_reference(np.ones((1, 3)), np.ones((1, 4)), weights, 1.0).state
    array([[0.5, 0.5, 0.5, 0.5]])
    """
    H = h.shape[-1]
    _, (r, z, n, inner) = _reference_step(x, h, **weights, reset_after=reset_after)
    W_hh = weights["weight_hh"]
    da_z, da_n = dh * (h - n) * z * (1 - z), dh * (1 - z) * (1 - n * n)
    dstate = dh * z
    if reset_after:
        da_r, da_hn, seen_by_n = da_n * inner * r * (1 - r), da_n * r, h
        dstate = dstate + da_hn @ W_hh[2 * H :]
    else:
        d_rh = da_n @ W_hh[2 * H :]
        da_r, da_hn, seen_by_n = d_rh * h * r * (1 - r), da_n, r * h
        dstate = dstate + d_rh * r
    da_rz = np.concatenate([da_r, da_z], axis=-1)
    da = np.concatenate([da_rz, da_n], axis=-1)
    all_weights = {
        "weight_ih": da.T @ x,
        "weight_hh": np.concatenate([da_rz.T @ h, da_hn.T @ seen_by_n]),
        "bias_ih": da.sum(axis=0),
        "bias_hh": np.concatenate([da_rz, da_hn], axis=-1).sum(axis=0),
    }
    dstate = dstate + da_rz @ W_hh[: 2 * H]
    return Gradients(da @ weights["weight_ih"], dstate, {name: all_weights[name] for name in weights})
