"""Modules one step at a time."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedstep._array import Array

if TYPE_CHECKING:
    from fusedstep.rnn._module import Module


class Stream:
    """A module one step at a time, with packed weights and a state of its own: made by `Module.stream`.

    It is for one thread at a time.

    Its h equals that of the module over the sequence, frozen as the stream is, bit for bit; on CUDA, where nothing is
    packed, to rounding. A step allocates nothing where `out` is given.

    Attributes
    ----------
    state : ndarray or tuple of ndarray
        h, or (h, c): (num_layers, batch, hidden_size) each, h with a projection (…, proj_size). The stream's own
        arrays: write to them to set the state.
    weights : str
        How they are packed.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.rnn import GRU
    >>> m = GRU(3, 8, rng=0)
    >>> x = np.ones((5, 1, 3), np.float32)
    >>> s = m.stream()
    >>> h = [s.step(x_t) for x_t in x]
    >>> bool(np.array_equal(h[-1], m(x)[0][-1]))
    True
    """

    __slots__ = ("_module", "_step", "_stream", "state", "weights")

    def __init__(self, module: "Module", stream: Any, weights: str) -> None:
        self._module = module
        self._stream = stream
        self.weights = weights
        self._step = stream.stepper()
        self.state = stream.state[0] if len(stream.state) == 1 else tuple(stream.state)

    def step(self, x: Any, out: Any = None) -> Array:
        """Take a step.

        Parameters
        ----------
        x : array_like
            (batch, input_size), or (input_size,) where the batch is 1; contiguous.
        out : array_like, optional
            Where h goes: (batch, hidden_size), or (hidden_size,) for an `x` without a batch; with a projection
            proj_size wide.

        Returns
        -------
        ndarray
            The last layer's h: `out`, or a new array.

        Raises
        ------
        ValueError, TypeError
            An argument does not fit; the message names it. The state did not move.
        """
        return self._step(x, out)  # type: ignore[no-any-return]

    def reset(self, rows: Any = None) -> None:
        """Zero the state, of some rows alone where `rows` (an index of the batch) is given."""
        for state in self.state if isinstance(self.state, tuple) else (self.state,):
            state[:, slice(None) if rows is None else rows] = 0

    def quantization_error(self, x: Any) -> float:
        """Measure what the packing costs: the largest error of h over a sequence, relative to the largest h.

        Parameters
        ----------
        x : array_like
            (time, batch, input_size). Both start from zeros; the stream's own state stays as it is.

        Returns
        -------
        float
            max abs(h - h of the module's weights in full) / max abs(the latter), of the last layer; 0 where x is empty.

        Notes
        -----
        The module's weights are taken as they are now, the stream's as they were when it was made. On CUDA each step
        waits for the GPU.
        """
        place = self._module._place
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        x = self._module._array(x, "x")
        B, inputs = states[0].shape[1], self._module.input_size
        if x.ndim != 3 or x.shape[1:] != (B, inputs):
            raise ValueError(f"x: expected shape (time, {B}, {inputs}), got {x.shape}")
        module = type(self._module)(
            **{**self._module._arguments(), "batch_first": False, "dropout": 0.0}, dtype=x.dtype
        )
        desired, _ = module.load(self._module._host_weights()).to(place.name)(x)
        before = [state.copy() for state in states]
        self.reset()
        try:
            steps = zip(place.contiguous(x), place.host(desired), strict=True)
            error = max((float(np.abs(place.host(self.step(x_t)) - h).max()) for x_t, h in steps), default=0.0)
        finally:
            for state, old in zip(states, before, strict=True):
                state[...] = old
        return error and error / float(np.abs(place.host(desired)).max())
