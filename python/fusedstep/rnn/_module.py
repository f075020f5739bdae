"""What the modules over whole sequences share: the run over the layers, and back."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from fusedstep import _core
from fusedstep._array import Array
from fusedstep.rnn._base import Gradients
from fusedstep.rnn._tape import TAPES, Form, Masks, SequenceTape, kept_as
from fusedstep.rnn._weighted import Given, Weighted
from fusedstep.rnn.stream import Stream


class Module(Weighted):
    """Base of `LSTM` and `GRU`: weights, the run over the layers, and back.

    Attributes
    ----------
    weights : mapping of str to ndarray
        Under torch's names and in its layout.
    """

    # ---- forward

    def __call__(self, x: Any, state: Any = None, lengths: Any = None, *, reset: Any = None) -> tuple[Array, Any]:
        """Run over a sequence, for inference: without dropout, with the mean of zoneout, and without a tape.

        Parameters
        ----------
        x : array_like
            (time, batch, input_size), or (batch, time, input_size) with `batch_first`, or (time, input_size); the
            module's dtype. Steps and rows may lie apart, as in ``x[:, ::2]``.
        state : array_like or tuple of array_like, optional
            h, or (h, c) for an LSTM, each (num_layers * directions, batch, hidden_size), without the batch where `x`
            has none; zeros where None. With a projection h is proj_size wide.
        lengths : array_like of int, optional
            (batch,): the steps of each row, from 0 to time, in any order. The output past them is 0, the final state is
            each row's own, and the reverse direction starts at each row's own end. Only what they count is computed.
        reset : array_like of bool, optional
            In the layout of `x`, without its last axis: zero a row's state before that step. Not with `bidirectional`.

        Returns
        -------
        y : ndarray
            h of the last layer at every step, in the layout of `x`, directions times the width of h, forward first.
        state : ndarray or tuple of ndarray
            The state after the last step, in the form of `state`.

        Raises
        ------
        ValueError, TypeError
            An argument does not fit; the message names it.

        Notes
        -----
        The same bits frozen or not, at once or in pieces whose state is passed on, step by step with the cells or a
        stream, for a row alone or in a batch, with any number of threads, on every instruction set. (On CUDA products
        are cuBLAS', which promises none of that.)
        """
        y, new, _ = self._run(x, state, lengths, reset, tape=0, masks=Masks())
        return y, new

    def forward(
        self,
        x: Any,
        state: Any = None,
        lengths: Any = None,
        *,
        reset: Any = None,
        tape: str = "full",
        seed: Any = None,
        origin: Any = (0, 0),
    ) -> tuple[Array, Any, SequenceTape]:
        """Run over a sequence, for training: with dropout and zoneout, and with what `backward` needs.

        Parameters
        ----------
        x, state, lengths, reset
            As in `__call__`.
        tape : {"full", "lean"}, optional
            "full" keeps the gates; "lean" computes them again in `backward`, those of some thousand steps times rows at
            a time: the same bits (on CUDA to rounding), half the memory or less.
        seed : int, optional
            Key of the masks of dropout and zoneout, from 0 to 2**64 - 1; drawn from the module's generator where None.
        origin : tuple of int, optional
            The numbers that the first step and the first row have in the masks: with them and one seed, pieces of a
            sequence or of a batch have the masks of the whole. (A reverse direction counts from a row's end.)

        Returns
        -------
        y, state
            As of `__call__`.
        tape : SequenceTape
            For one `backward` call.

        Raises
        ------
        ValueError, TypeError
            An argument does not fit; the message names it.
        """
        kept = kept_as(tape)
        if self.frozen and self._frozen_as != self.dtype.name:
            frozen = f"a module frozen as {self._frozen_as}"
            raise ValueError(f"forward: expected weights in full, got {frozen}; call it, or unfreeze() it")
        if seed is None:
            seed = int(self._rng.integers(2**63)) if self.dropout or self.recurrent_dropout or self.zoneout else 0
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
            raise ValueError(f"seed: expected an integer from 0 to 2**64 - 1, got {seed!r}")
        if not isinstance(origin, tuple | list) or len(origin) != 2:
            raise TypeError(f"origin: expected a tuple (step, row), got {origin!r}")
        for number in origin:
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < 2**31:
                raise ValueError(f"origin: expected integers from 0 to 2**31 - 1, got {number!r}")
        return self._run(
            x, state, lengths, reset, tape=kept, masks=Masks(True, self.dropout, int(seed), *map(int, origin))
        )

    def _run(
        self, x: Any, state: Any, lengths: Any, reset: Any, *, tape: int, masks: Masks
    ) -> tuple[Array, Any, SequenceTape]:
        place, x = self._place, self._array(x, "x")
        form = Form(x, self.input_size, self.batch_first)
        states = self._state(state, form, "state")
        if lengths is not None:
            lengths = self._lengths(lengths, form)
        if reset is not None:
            reset = self._reset(reset, form)
        D, P, total = self._directions, self._width, self.num_layers * self._directions
        new = [place.empty((total, form.B, width), self.dtype) for width in self._state_widths()]
        dropped = masks.dropout
        runs: list[_core.Run] = []
        between: list[Array] = []
        inward = form.inward(x)
        for i, layer in enumerate(self._layers):
            last = i + 1 == self.num_layers
            shape = form.shape(D * P) if last else (form.T, form.B, D * P)
            y = (place.result if lengths is None else place.zeros)(shape, self.dtype)
            outward = form.inward(y) if last else y
            own = slice(i * D, (i + 1) * D)
            run = layer.forward(
                inward,
                outward,
                [s[own] for s in states],
                [s[own] for s in new],
                lengths,
                reset,
                self._noise(i, masks),
                tape,
            )
            inward = outward
            if dropped and not last:
                inward = place.result(outward.shape, self.dtype)
                place.dropout(outward, inward, dropped, masks.seed, i, masks.step, masks.row)
            if run is not None:
                runs.append(run)
                between += [] if last else [outward, inward] if dropped else [outward]
        return y, self._form_state(new, form), SequenceTape(self, {"x": x, "y": y}, runs, between, masks, form)

    # ---- backward

    def backward(
        self,
        tape: Any,
        dy: Any,
        dstate: Any = None,
        *,
        out: Any = None,
        accumulate: bool = False,
    ) -> Gradients:
        """Compute the gradients of a `forward` call, through time.

        Parameters
        ----------
        tape : SequenceTape
            What that call returned. It is spent.
        dy : array_like or None
            Gradient of y, in its shape; None means zero.
        dstate : array_like or tuple of array_like, optional
            Gradient of the state after the last step, in its form; None means zero.
        out : mapping of str to array_like, optional
            The arrays, by the weights' names and in their shapes, where the weights' gradients go.
        accumulate : bool, optional
            Add to what `out` holds.

        Returns
        -------
        Gradients
            `x`, `state`, and `weights` by name (the arrays of `out` where it was given).

        Raises
        ------
        ValueError, TypeError
            An argument does not fit, or the tape is spent or another module's. Nothing was written.
        """
        if not isinstance(tape, SequenceTape):
            raise TypeError(f"tape: expected what forward returned, got {type(tape).__name__}")
        if tape._module is not self:
            raise ValueError(f"tape: expected one of this module's, got one of {tape._module!r}")
        if tape.spent:
            raise ValueError("tape: expected one that no backward call has used, got one that is spent")
        form, D, P, place = tape._form, self._directions, self._width, self._place
        if dy is not None:
            dy = self._array(dy, "dy")
            if dy.shape != form.shape(D * P):
                raise ValueError(f"dy: expected shape {form.shape(D * P)}, got {dy.shape}")
            dy = form.inward(dy)
        states = [s.copy() for s in self._state(dstate, form, "dstate", "d")]
        read = dict(tape._ends) if dy is None else {**tape._ends, "dy": dy}
        gradients = self._gradients(out, accumulate, read)
        masks = tape._masks
        dropped = masks.dropout
        for i in reversed(range(self.num_layers)):
            shape = form.shape(self.input_size) if i == 0 else (form.T, form.B, D * P)
            dx = (place.result if tape._runs[i].whole and D == 1 else place.zeros)(shape, self.dtype)
            inward = form.inward(dx) if i == 0 else dx
            own = slice(i * D, (i + 1) * D)
            directions = [{name: gradients[ours] for name, ours in names.items()} for names in self._layer_names(i)]
            tape._runs[i].backward(dy, [s[own] for s in states], inward, directions, accumulate)
            if i > 0 and dropped:
                place.dropout(inward, inward, dropped, masks.seed, i - 1, masks.step, masks.row)
            dy = inward
        tape._between.clear()
        return Gradients(dx, self._form_state(states, form), gradients)

    def _gradients(self, out: Any, accumulate: bool, read: Mapping[str, Array]) -> dict[str, Array]:
        if out is None:
            if accumulate:
                raise ValueError("accumulate: expected the arrays to add to as out, got None")
            return {name: self._place.result(array.shape, array.dtype) for name, array in self.weights.items()}
        if not isinstance(out, Mapping) or out.keys() != self.weights.keys():
            got = sorted(map(str, out)) if isinstance(out, Mapping) else type(out).__name__
            raise ValueError(f"out: expected an array for each of {sorted(self.weights)}, got {got}")
        arrays = {name: self._place.parameter(out[name], f"out[{name!r}]") for name in self.weights}
        for name, array in arrays.items():
            like = self.weights[name]
            if array.dtype != like.dtype:
                raise TypeError(f"out[{name!r}]: expected dtype {like.dtype}, got {array.dtype}")
            if array.shape != like.shape:
                raise ValueError(f"out[{name!r}]: expected shape {like.shape}, got {array.shape}")
            for other, source in read.items():
                if self._place.overlap(array, source):
                    raise ValueError(f"out[{name!r}]: expected memory of its own, got an overlap with {other}")
        names = list(arrays)
        self._place.check_apart(
            [*arrays.values(), *self.weights.values()],
            lambda i: f"out[{names[i]!r}]" if i < len(names) else f"weights[{names[i - len(names)]!r}]",
        )
        return arrays

    # ---- arguments

    def _array(self, obj: Any, name: str) -> Array:
        array: Array = self._place.view(obj, name)
        if array.dtype != self.dtype:
            raise TypeError(f"{name}: expected dtype {self.dtype}, got {array.dtype}")
        if not self._place.aligned(array):
            raise ValueError(f"{name}: expected elements aligned to their size, got a misaligned array")
        if array.ndim and array.shape[-1] > 1 and array.size and array.strides[-1] != array.itemsize:
            raise ValueError(
                f"{name}: expected the elements of a row side by side, got shape {array.shape} "
                f"with strides {array.strides}"
            )
        return array

    def _state(self, state: Any, form: Form, name: str, prefix: str = "") -> list[Array]:
        total, widths, count = self.num_layers * self._directions, self._state_widths(), len(self._states)
        if state is None:
            return [self._place.zeros((total, form.B, width), self.dtype) for width in widths]
        if count > 1 and (not isinstance(state, tuple | list) or len(state) != count):
            got = f"{len(state)} items" if isinstance(state, tuple | list) else type(state).__name__
            raise TypeError(f"{name}: expected a tuple ({', '.join(prefix + s for s in self._states)}), got {got}")
        arrays: list[Array] = []
        for item, own, width in zip(state if count > 1 else [state], self._states, widths, strict=True):
            if item is None and prefix:
                arrays.append(self._place.zeros((total, form.B, width), self.dtype))
                continue
            array, wanted = self._array(item, prefix + own), form.state_shape(total, width)
            if array.shape != wanted:
                raise ValueError(f"{prefix + own}: expected shape {wanted}, got {array.shape}")
            arrays.append(self._place.contiguous(array).reshape(total, form.B, width))
        return arrays

    def _state_widths(self) -> tuple[int, ...]:
        return (self._width, self.hidden_size)[: len(self._states)]

    def _form_state(self, arrays: Sequence[Array], form: Form) -> Any:
        shaped = [array.reshape(form.state_shape(len(array), array.shape[-1])) for array in arrays]
        return shaped[0] if len(shaped) == 1 else tuple(shaped)

    def _lengths(self, lengths: Any, form: Form) -> Array:
        array: Array = self._place.integers(lengths, "lengths")
        if array.dtype.kind not in "iu":
            raise TypeError(f"lengths: expected integers, got dtype {array.dtype}")
        if array.shape != (form.B,):
            raise ValueError(f"lengths: expected shape ({form.B},), got {array.shape}")
        wrong = array[(array < 0) | (array > form.T)]
        if wrong.size:
            raise ValueError(f"lengths: expected integers from 0 to {form.T}, got {wrong[0]}")
        return array.astype(np.int64)

    def _reset(self, reset: Any, form: Form) -> Array:
        if self.bidirectional:
            raise ValueError("reset: expected None for a bidirectional module, got an array")
        array = self._place.mask(reset, "reset")
        if array.dtype != np.bool_:
            raise TypeError(f"reset: expected dtype bool, got {array.dtype}")
        if array.shape != form.shape():
            raise ValueError(f"reset: expected shape {form.shape()}, got {array.shape}")
        return form.inward(array)

    def _noise(self, layer: int, masks: Masks) -> Any:
        """Return what a layer's sweeps do at random, or the mean of it."""
        zoneout = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,) * len(self._states)
        h, c = (*zoneout, 0.0)[:2]
        recurrent = self.recurrent_dropout if masks.drawn else 0.0
        stream = 2**31 + 2 * layer  # dropout between layers counts its streams from 0
        return self._place.Noise(recurrent, (h, c), masks.drawn, masks.seed, stream, masks.step, masks.row)

    # ---- streaming and the rest

    def stream(self, batch: Any = 1, *, weights: str | None = None, threads: Any = 1) -> Stream:
        """Pack the weights for one step at a time.

        Parameters
        ----------
        batch : int, optional
            Rows of every step.
        weights : {"float32", "bfloat16", "int8"}, optional
            How they are packed, as in `freeze`.
        threads : int, optional
            At most so many.

        Returns
        -------
        Stream
            With a snapshot of the weights and a state of its own, zeros at first.

        Raises
        ------
        ValueError
            The module is bidirectional, or an argument is none of these.

        Notes
        -----
        On CUDA nothing is packed, and `threads` has no effect.
        """
        if self.bidirectional:
            raise ValueError("stream: expected a module of one direction, got a bidirectional one")
        for name, value in (("batch", batch), ("threads", threads)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be an integer from 1 on, got {value!r}")
        layers = [
            {name: self.weights[ours] for name, ours in names.items()}
            for layer in range(self.num_layers)
            for names in self._layer_names(layer)
        ]
        form = self._packing(weights)
        noise = self._noise(0, Masks())
        return Stream(self, self._place.Stream(self._kind, layers, int(batch), int(threads), form, noise), form)

    def tape_bytes(self, T: Any, B: Any, tape: str = "full") -> int:
        """Tell the bytes that a tape alone holds, for rows of full length.

        Parameters
        ----------
        T, B : int
            Steps and rows.
        tape : {"full", "lean"}, optional
            Which.

        Returns
        -------
        int
        """
        for name, value in (("T", T), ("B", B)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"{name} must be an integer from 0 on, got {value!r}")
        cell, L = _core.cells()[self._kind], self.num_layers
        full = kept_as(tape) == TAPES["full"]
        kept = (cell["states"] - 1 + cell["saved"] * full) * self.hidden_size + 2 * cell["norms"] * full
        between = 2 if self.dropout else 1
        values = L * kept + (L - 1) * between * self._width  # a step and row of one direction
        return int(T) * int(B) * self._directions * self.dtype.itemsize * values

    def _arguments(self) -> dict[str, Any]:
        names = ("input_size", "hidden_size", "num_layers", *self._options)
        return {name: getattr(self, name) for name in names}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy deeply: the options, the weights, and whether they are frozen."""
        arguments = type(self), self._arguments(), self.dtype, dict(self.weights), self._frozen_as * self.frozen
        return _rebuild, arguments

    def __copy__(self) -> Self:
        """Copy deeply: of two modules that share arrays, one could change what the other has frozen."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        """Show sizes and options."""
        text = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({text}, dtype={self.dtype}{', frozen' if self.frozen else ''})"


def _rebuild(
    cls: type[Module], arguments: dict[str, Any], dtype: DTypeLike, weights: dict[str, Array], frozen_as: str
) -> Module:
    module = cls(**arguments, dtype=dtype, rng=Given(weights))
    return module.freeze(frozen_as) if frozen_as else module.unfreeze()
