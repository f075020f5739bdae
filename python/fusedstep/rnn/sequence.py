"""Recurrent layers over whole sequences: LSTM and GRU."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fusedstep.rnn._module import Module
from fusedstep.rnn.lstm_cells import kind_of


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


class LSTM(Module):
    """Long short-term memory over sequences: torch's names, layouts and defaults.

    Parameters
    ----------
    input_size, hidden_size : int
        Widths of the input and of h.
    num_layers : int, optional
        Layers, each over the output of the one before.
    bias : bool, optional
        Whether there are ``bias_ih`` and ``bias_hh``.
    batch_first : bool, optional
        x and y are (batch, time, n).
    dropout : float, optional
        Probability of dropout between layers in `forward`.
    bidirectional : bool, optional
        A second direction that runs from each row's end.
    recurrent_dropout : float, optional
        Probability that `forward` drops a unit of h on its way to ``weight_hh``, at all steps of a sequence alike
        (variational dropout).
    zoneout : float or tuple of float, optional
        Probability that a unit of h and of c, or of each its own, keeps its value of the step before in `forward`.
        Calls, streams and frozen modules mix old and new at that rate.
    peephole : bool, optional
        Gates see the second state: ``weight_ch`` (3, hidden_size) in the order i f o; o sees c'.
    coupled : bool, optional
        The input gate is 1 minus the forget gate: weights of three gates, f g o, and two peepholes, f o. (ONNX's
        input_forget couples the other way, f = 1 - i; `from_onnx` turns it round.)
    proj_size : int, optional
        Width of h where it is projected, smaller than hidden_size: ``h' = W_hr (o tanh(c'))``, ``weight_hr``
        (proj_size, hidden_size), while c stays hidden_size wide [5]_. 0 for no projection.
    layer_norm : bool, optional
        Normalise what the weight matrices give, and c' on its way to h', over the hidden units: N(a) = (a - mean(a)) /
        sqrt(var(a) + 1e-5). ``i, f, g, o = gain_ih N(W_ih x) + b_ih + gain_hh N(W_hh h) + b_hh``, N over all four;
        ``h' = sigmoid(o) tanh(gain_c N(c') + bias_c)``. With weights ``gain_ih``, ``gain_hh`` (4*hidden_size,), ones at
        first, ``gain_c``, ones, and ``bias_c``, zeros, (hidden_size,). Not with `peephole`,
        `coupled` or `proj_size`.
    dtype : dtype, optional
        float32 or float64.
    rng : int or numpy.random.Generator, optional
        Draws the initial weights, uniform in ±1/sqrt(hidden_size), and seeds of dropout.

    References
    ----------
    .. [1] Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9, 1997; forget gates: Gers,
       Schmidhuber and Cummins, 2000; peepholes: Gers and Schmidhuber, "Recurrent nets that time and count", 2000.
    .. [2] Graves and Schmidhuber, "Framewise phoneme classification with bidirectional LSTM", 2005.
    .. [3] Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS
       2016; Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
    .. [4] Greff et al., "LSTM: A search space odyssey", IEEE TNNLS 28(10), 2017 (coupled gates).
    .. [5] Sak, Senior and Beaufays, "Long short-term memory recurrent neural network architectures for large scale
       acoustic modeling", Interspeech 2014.
    .. [6] Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450, 2016, eq. 20 to 22.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import LSTM
    >>> m = LSTM(3, 8, num_layers=2, rng=0)
    >>> x = np.ones((5, 4, 3), np.float32)
    >>> y, (h, c) = m(x, lengths=[5, 2, 3, 5])
    >>> y.shape, h.shape
    ((5, 4, 8), (2, 4, 8))
    >>> y, state, tape = m.forward(x)
    >>> g = m.backward(tape, 2 * y)
    >>> g.x.shape, g.weights["weight_hh_l1"].shape
    ((5, 4, 3), (32, 8))
    >>> y, (h, c) = LSTM(3, 8, proj_size=2, rng=0)(x)
    >>> y.shape, h.shape, c.shape
    ((5, 4, 2), (1, 4, 2), (1, 4, 8))
    """

    _options = (
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "recurrent_dropout",
        "zoneout",
        "peephole",
        "coupled",
        "proj_size",
        "layer_norm",
    )
    _states = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        peephole: bool = False,
        coupled: bool = False,
        proj_size: int = 0,
        layer_norm: bool = False,
        dtype: DTypeLike = np.float32,
        rng: "int | np.random.Generator | None" = None,  # a string: NumPy imports its generators late
    ) -> None:
        self.peephole, self.coupled = _flag("peephole", peephole), _flag("coupled", coupled)
        self.layer_norm = _flag("layer_norm", layer_norm)
        for name, value in (("peephole", peephole), ("coupled", coupled), ("proj_size", proj_size)):
            if layer_norm and value:
                raise ValueError(f"layer_norm must be False with {name}={value!r}, got True")
        kind = "layer_norm_lstm" if layer_norm else kind_of(peephole, coupled)
        super().__init__(
            kind,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_dropout,
            zoneout,
            dtype,
            rng,
            proj_size,
        )
        self.proj_size = int(proj_size)


class GRU(Module):
    """Gated recurrent units over sequences: torch's names, layouts and defaults.

    Parameters
    ----------
    input_size, hidden_size : int
        Widths of the input and of h.
    num_layers : int, optional
        Layers, each over the output of the one before.
    bias : bool, optional
        Whether there are ``bias_ih`` and ``bias_hh``.
    batch_first : bool, optional
        x and y are (batch, time, n).
    dropout : float, optional
        Probability of dropout between layers in `forward`.
    bidirectional : bool, optional
        A second direction that runs from each row's end.
    recurrent_dropout : float, optional
        Probability that `forward` drops a unit of h on its way to ``weight_hh``, at all steps of a sequence alike
        (variational dropout).
    zoneout : float, optional
        Probability that a unit of h keeps its value of the step before in `forward`. Calls, streams and frozen
        modules mix old and new at that rate.
    reset_after : bool, optional
        True: n = tanh(W x + b + r·(W h + b)), as torch and cuDNN. False: n = tanh(W x + b + W (r·h) + b), as the paper.
    layer_norm : bool, optional
        Normalise what the weight matrices give over the hidden units: gain N(W x) + b and gain N(W h) + b in place of
        W x + b and W h + b, where N(a) = (a - mean(a)) / sqrt(var(a) + 1e-5) is over r and z jointly, and over n. With
        weights ``gain_ih`` and ``gain_hh`` (3*hidden_size,), ones at first. Not with ``reset_after=False``.
    dtype : dtype, optional
        float32 or float64.
    rng : int or numpy.random.Generator, optional
        Draws the initial weights, uniform in ±1/sqrt(hidden_size), and seeds of dropout.

    References
    ----------
    .. [1] Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
       EMNLP 2014, eq. 5 to 8.
    .. [2] Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS
       2016; Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
    .. [3] Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450, 2016, supplement.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import GRU
    >>> m = GRU(3, 8, bidirectional=True, batch_first=True, rng=0)
    >>> y, h = m(np.ones((4, 5, 3), np.float32))
    >>> y.shape, h.shape
    ((4, 5, 16), (2, 4, 8))
    """

    _options = (
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "recurrent_dropout",
        "zoneout",
        "reset_after",
        "layer_norm",
    )
    _states = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        reset_after: bool = True,
        layer_norm: bool = False,
        dtype: DTypeLike = np.float32,
        rng: "int | np.random.Generator | None" = None,  # a string: NumPy imports its generators late
    ) -> None:
        self.reset_after, self.layer_norm = _flag("reset_after", reset_after), _flag("layer_norm", layer_norm)
        if self.layer_norm and not self.reset_after:
            raise ValueError("layer_norm must be False with reset_after=False, got True")
        kind = "gru_reset_before" if not reset_after else "layer_norm_gru" if layer_norm else "gru"
        super().__init__(
            kind,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_dropout,
            zoneout,
            dtype,
            rng,
        )
