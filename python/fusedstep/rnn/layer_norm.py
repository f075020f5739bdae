"""Layer normalisation in LSTM and GRU: the NumPy references of a step of `LSTM` and `GRU` with ``layer_norm=True``."""

from typing import Any

import numpy as np

from fusedstep._array import Array
from fusedstep.rnn import gru_cells, lstm_cells
from fusedstep.rnn.lstm_cells import sigmoid

EPSILON = 1e-5


def normalized(a: Array) -> Array:
    """Return (a - mean) / sqrt(variance + 1e-5) over the last axis, the variance biased."""
    apart = a - a.mean(axis=-1, keepdims=True)
    result: Array = apart / np.sqrt((apart * apart).mean(axis=-1, keepdims=True) + EPSILON)
    return result


# What normalising a value takes. Forward: its part in the mean 1, its deviation 1, its part in the variance 2, N 1,
# gain and bias 2. Backward: its gradient 8, and its parts in those of gain and bias 3 (csrc/cpu/norm.h, norm_back.h).
NORM_FLOPS = (7, 11)


def unit_flops(states: int) -> tuple[int, int]:
    """Count the operations on one hidden unit of one row, without products, of an LSTM (two states) or a GRU.

    Those of the plain cell, one addition for each preactivation whose halves are normalised apart, and the values that
    are normalised: both halves of the gates, and an LSTM's c.
    """
    plain = lstm_cells.unit_flops(False, False) if states == 2 else gru_cells.unit_flops(True)
    values, halves = (9, 4) if states == 2 else (6, 2)
    return plain[0] + halves + values * NORM_FLOPS[0], plain[1] + values * NORM_FLOPS[1]


def layer_norm_lstm_reference(
    x: Array,
    state: tuple[Array, Array],
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | float = 0.0,
    bias_hh: Array | float = 0.0,
    *,
    gain_ih: Array,
    gain_hh: Array,
    gain_c: Array,
    bias_c: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Take one step of a layer-normalised LSTM in NumPy, as its formulas read.

    Parameters
    ----------
    x : ndarray
        (batch, I) or (I,), any floating dtype.
    state : tuple of ndarray
        (h, c), each (batch, H) or (H,).
    weight_ih, weight_hh : ndarray
        (4H, I) and (4H, H), gates i f g o.
    bias_ih, bias_hh : ndarray, optional
        (4H,).
    gain_ih, gain_hh : ndarray
        (4H,).
    gain_c, bias_c : ndarray
        (H,).

    Returns
    -------
    (h, c) : tuple of ndarray
        The new state.

    References
    ----------
    .. [1] Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450, 2016, eq. 20 to 22.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import layer_norm_lstm_reference
    >>> gains = {"gain_ih": np.ones(16), "gain_hh": np.ones(16), "gain_c": np.ones(4)}
    >>> h, c = layer_norm_lstm_reference(
    ...     np.ones(3), (np.zeros(4), np.ones(4)), np.zeros((16, 3)), np.zeros((16, 4)), **gains
    ... )
    >>> h, c
    (array([0., 0., 0., 0.]), array([0.5, 0.5, 0.5, 0.5]))
    """
    h, c = state
    of_x = gain_ih * normalized(x @ weight_ih.T) + bias_ih
    of_h = gain_hh * normalized(h @ weight_hh.T) + bias_hh
    i, f, g, o = np.split(of_x + of_h, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(gain_c * normalized(c) + bias_c), c


def layer_norm_gru_reference(
    x: Array,
    h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | float = 0.0,
    bias_hh: Array | float = 0.0,
    *,
    gain_ih: Array,
    gain_hh: Array,
) -> Array:
    """Take one step of a layer-normalised GRU in NumPy, as its formulas read.

    Parameters
    ----------
    x : ndarray
        (batch, I) or (I,), any floating dtype.
    h : ndarray
        (batch, H) or (H,).
    weight_ih, weight_hh : ndarray
        (3H, I) and (3H, H), gates r z n.
    bias_ih, bias_hh : ndarray, optional
        (3H,).
    gain_ih, gain_hh : ndarray
        (3H,).

    Returns
    -------
    h : ndarray
        The new state.

    References
    ----------
    .. [1] Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450, 2016, supplement.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import layer_norm_gru_reference
    >>> gains = {"gain_ih": np.ones(12), "gain_hh": np.ones(12)}
    >>> layer_norm_gru_reference(np.ones(3), np.ones(4), np.zeros((12, 3)), np.zeros((12, 4)), **gains)
    array([0.5, 0.5, 0.5, 0.5])
    """

    def gates(a: Array, gain: Array, bias: Any) -> tuple[Array, Array, Array]:
        """Normalise r and z jointly, and n; scale and shift."""
        rz, n = np.split(a, [2 * h.shape[-1]], axis=-1)
        r, z, n = np.split(gain * np.concatenate([normalized(rz), normalized(n)], axis=-1) + bias, 3, axis=-1)
        return r, z, n

    x_r, x_z, x_n = gates(x @ weight_ih.T, gain_ih, bias_ih)
    h_r, h_z, h_n = gates(h @ weight_hh.T, gain_hh, bias_hh)
    z = sigmoid(x_z + h_z)
    new: Array = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
    return new
