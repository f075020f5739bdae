"""Sequences as functions of weights that the caller owns: lstm and gru, forward and backward."""

from collections.abc import Mapping
from typing import Any

from fusedstep.rnn._base import Gradients
from fusedstep.rnn._formats.torch import read_torch, torch_names
from fusedstep.rnn._module import Module
from fusedstep.rnn._places import place_of
from fusedstep.rnn._tape import SequenceTape
from fusedstep.rnn._weighted import Given
from fusedstep.rnn.sequence import GRU, LSTM


def _over(cls: type[Module], weights: Any, **options: Any) -> Module:
    """Make a module that uses these very arrays."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights: expected a mapping of names to arrays, got {type(weights).__name__}")
    keys = torch_names(weights, "weights", "", cls._family())
    titles = {name: f"weights[{key!r}]" for name, key in keys.items()}
    coupled = bool(options.get("coupled"))
    given = {name: weights[key] for name, key in keys.items()}
    view = place_of({titles[name]: array for name, array in given.items()}).view
    found, arrays = read_torch(cls._family(), given, titles, coupled, view)
    return cls(**(found | options), rng=Given(arrays))


def _run(module: Module, x: Any, state: Any, lengths: Any, reset: Any, tape: Any, seed: Any, origin: Any) -> Any:
    if tape is None:
        return module(x, state, lengths, reset=reset)
    return module.forward(x, state, lengths, reset=reset, tape=tape, seed=seed, origin=origin)


def lstm(
    x: Any,
    state: Any,
    weights: Mapping[str, Any],
    lengths: Any = None,
    *,
    batch_first: bool = False,
    coupled: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    zoneout: float | tuple[float, float] = 0.0,
    reset: Any = None,
    tape: str | None = None,
    seed: Any = None,
    origin: Any = (0, 0),
) -> Any:
    """Run an LSTM over a sequence: `LSTM` as a function of its weights.

    Parameters
    ----------
    x : array_like
        (time, batch, I), or (batch, time, I) with `batch_first`, or (time, I); float32 or float64.
    state : tuple of array_like or None
        (h, c), each (layers * directions, batch, H), h with a projection (…, P); None for zeros.
    weights : mapping of str to array_like
        C-contiguous arrays of the dtype of `x` under the names that ``LSTM(...).weights`` has, which are torch's.
        They are used as they are; widths, layers, directions, biases, peepholes, a projection and gains are those of
        the arrays.
    lengths, reset : optional
        As in a call of `LSTM`.
    batch_first, coupled, dropout, recurrent_dropout, zoneout : optional
        As in the constructor of `LSTM`.
    tape : {"full", "lean"}, optional
        Return also what `lstm_backward` needs, and draw masks, as `LSTM.forward` does. Without it, inference.
    seed, origin : optional
        Of the masks, as in `LSTM.forward`.

    Returns
    -------
    y : ndarray
        h of the last layer at every step, in the layout of `x`.
    (h, c) : tuple of ndarray
        The state after the last step.
    tape : SequenceTape
        Where `tape` asks for one.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it.

    Notes
    -----
    Weights are packed for each call. A frozen `LSTM` packs them once.

    References
    ----------
    .. [1] Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import lstm, lstm_backward
    >>> rng = np.random.default_rng(0)
    >>> weights = {"weight_ih_l0": rng.normal(size=(16, 3)), "weight_hh_l0": rng.normal(size=(16, 4))}
    >>> y, (h, c), tape = lstm(np.ones((5, 2, 3)), None, weights, tape="full")
    >>> g = lstm_backward(tape, 2 * y)
    >>> y.shape, g.x.shape, g.weights["weight_hh_l0"].shape
    ((5, 2, 4), (5, 2, 3), (16, 4))
    """
    module = _over(
        LSTM,
        weights,
        batch_first=batch_first,
        coupled=coupled,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        zoneout=zoneout,
    )
    return _run(module, x, state, lengths, reset, tape, seed, origin)


def gru(
    x: Any,
    state: Any,
    weights: Mapping[str, Any],
    lengths: Any = None,
    *,
    batch_first: bool = False,
    reset_after: bool = True,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    reset: Any = None,
    tape: str | None = None,
    seed: Any = None,
    origin: Any = (0, 0),
) -> Any:
    """Run a GRU over a sequence: `GRU` as a function of its weights.

    Parameters
    ----------
    x : array_like
        (time, batch, I), or (batch, time, I) with `batch_first`, or (time, I); float32 or float64.
    state : array_like or None
        h, (layers * directions, batch, H); None for zeros.
    weights : mapping of str to array_like
        C-contiguous arrays of the dtype of `x` under the names that ``GRU(...).weights`` has, which are torch's. They
        are used as they are; widths, layers, directions, biases and gains are those of the arrays.
    lengths, reset : optional
        As in a call of `GRU`.
    batch_first, reset_after, dropout, recurrent_dropout, zoneout : optional
        As in the constructor of `GRU`.
    tape : {"full", "lean"}, optional
        Return also what `gru_backward` needs, and draw masks, as `GRU.forward` does. Without it, inference.
    seed, origin : optional
        Of the masks, as in `GRU.forward`.

    Returns
    -------
    y : ndarray
        h of the last layer at every step, in the layout of `x`.
    h : ndarray
        The state after the last step.
    tape : SequenceTape
        Where `tape` asks for one.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it.

    Notes
    -----
    Weights are packed for each call. A frozen `GRU` packs them once.

    References
    ----------
    .. [1] Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
       EMNLP 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import gru
    >>> rng = np.random.default_rng(0)
    >>> weights = {"weight_ih_l0": rng.normal(size=(12, 3)), "weight_hh_l0": rng.normal(size=(12, 4))}
    >>> y, h = gru(np.ones((5, 2, 3)), None, weights, lengths=[5, 3])
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    """
    module = _over(
        GRU,
        weights,
        batch_first=batch_first,
        reset_after=reset_after,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        zoneout=zoneout,
    )
    return _run(module, x, state, lengths, reset, tape, seed, origin)


def _backward(cls: type[Module], tape: Any, dy: Any, dstate: Any, out: Any, accumulate: bool) -> Gradients:
    if not isinstance(tape, SequenceTape) or not isinstance(tape._module, cls):
        got = repr(tape._module) if isinstance(tape, SequenceTape) else type(tape).__name__
        raise TypeError(f"tape: expected a SequenceTape of {cls.__name__}, got {got}")
    return tape._module.backward(tape, dy, dstate, out=out, accumulate=accumulate)


def lstm_backward(tape: Any, dy: Any, dstate: Any = None, *, out: Any = None, accumulate: bool = False) -> Gradients:
    """Compute the gradients of a call of `lstm`, through time.

    Parameters
    ----------
    tape : SequenceTape
        What that call returned. It is spent.
    dy : array_like or None
        Gradient of y, in its shape; None means zero.
    dstate : tuple of array_like, optional
        Gradients of the state after, (dh, dc); zeros where None.
    out : mapping of str to ndarray, optional
        Where the weights' gradients go: an array for each weight.
    accumulate : bool, optional
        Add them to what `out` holds.

    Returns
    -------
    Gradients
        `x`, `state` = (dh, dc) of the state before, and `weights` by name.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import LSTM, lstm, lstm_backward
    >>> weights = LSTM(3, 4, rng=0).weights
    >>> y, state, tape = lstm(np.ones((5, 2, 3), np.float32), None, weights, tape="lean")
    >>> sums = {name: np.zeros_like(w) for name, w in weights.items()}
    >>> lstm_backward(tape, y, out=sums, accumulate=True).weights["bias_ih_l0"] is sums["bias_ih_l0"]
    True
    """
    return _backward(LSTM, tape, dy, dstate, out, accumulate)


def gru_backward(tape: Any, dy: Any, dstate: Any = None, *, out: Any = None, accumulate: bool = False) -> Gradients:
    """Compute the gradients of a call of `gru`, through time.

    Parameters
    ----------
    tape : SequenceTape
        What that call returned. It is spent.
    dy : array_like or None
        Gradient of y, in its shape; None means zero.
    dstate : array_like, optional
        Gradient of the state after; zeros where None.
    out : mapping of str to ndarray, optional
        Where the weights' gradients go: an array for each weight.
    accumulate : bool, optional
        Add them to what `out` holds.

    Returns
    -------
    Gradients
        `x`, `state` = dh of the state before, and `weights` by name.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import GRU, gru, gru_backward
    >>> y, h, tape = gru(np.ones((5, 2, 3), np.float32), None, GRU(3, 4, rng=0).weights, tape="full")
    >>> gru_backward(tape, y).state.shape
    (1, 2, 4)
    """
    return _backward(GRU, tape, dy, dstate, out, accumulate)
