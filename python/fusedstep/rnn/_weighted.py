"""What a module over whole sequences is made of: its options and its weights, where these are, and their snapshot."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from fusedstep import _core
from fusedstep._array import Array
from fusedstep.rnn._formats import Formats
from fusedstep.rnn._places import moved, place_of


def _probability(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return float(value)


class Given(dict[str, Array]):
    """Weights that stand in the place of drawn ones, where a constructor takes `rng`."""


class Weighted(Formats):
    """A module's options and weights; what runs over them is `Module`'s.

    Attributes
    ----------
    weights : mapping of str to ndarray
        Under torch's names and in its layout.
    """

    _states: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        kind: str,
        input_size: Any,
        hidden_size: Any,
        num_layers: Any,
        bias: bool,
        batch_first: bool,
        dropout: Any,
        bidirectional: bool,
        recurrent_dropout: Any,
        zoneout: Any,
        dtype: DTypeLike,
        rng: Any,
        proj_size: Any = 0,
    ) -> None:
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(f"{name} must be an integer from 1 on, got {size!r}")
        if (
            isinstance(proj_size, bool)
            or not isinstance(proj_size, int | np.integer)
            or not 0 <= proj_size < hidden_size
        ):
            raise ValueError(
                f"proj_size must be an integer from 0 on and smaller than hidden_size={hidden_size}, got {proj_size!r}"
            )
        for name, flag in (("bias", bias), ("batch_first", batch_first), ("bidirectional", bidirectional)):
            if not isinstance(flag, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {flag!r}")
        self.dropout = _probability("dropout", dropout)
        self.recurrent_dropout = _probability("recurrent_dropout", recurrent_dropout)
        self.zoneout: float | tuple[float, ...]
        if isinstance(zoneout, tuple | list):
            if len(zoneout) != len(self._states) or len(zoneout) == 1:
                pair = " or one for each of (h, c)" * (len(self._states) > 1)
                raise ValueError(f"zoneout must be a number{pair}, got {zoneout!r}")
            self.zoneout = tuple(_probability("zoneout", z) for z in zoneout)
        else:
            self.zoneout = _probability("zoneout", zoneout)
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
        self.input_size, self.hidden_size, self.num_layers = int(input_size), int(hidden_size), int(num_layers)
        self._width = int(proj_size) or self.hidden_size  # of h
        self.bias, self.batch_first, self.bidirectional = bool(bias), bool(batch_first), bool(bidirectional)
        self.dtype = np.dtype(dtype)
        self._kind = kind
        given = isinstance(rng, Given)
        self._rng = np.random.default_rng(None if given else rng)
        self._build(dict(rng) if given else self._drawn())

    # ---- weights

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _layer_names(self, layer: int) -> Iterator[dict[str, str]]:
        """For each direction: the compiled cell's names of a layer's weights, and the module's."""
        cell = _core.cells()[self._kind]
        names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * self.bias
        names += ["weight_ch"] * (cell["peepholes"] > 0)
        names += ["weight_hr"] * (self._width < self.hidden_size)
        if cell["norms"]:
            names += ["gain_ih", "gain_hh"]
            names += (["gain_c"] + ["bias_c"] * self.bias) * (cell["states"] > 1)
        for suffix in ("", "_reverse")[: self._directions]:
            yield {name: f"{name}_l{layer}{suffix}" for name in names}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        cell, H, P = _core.cells()[self._kind], self.hidden_size, self._width
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else self._directions * P
            rows = cell["gates"] * H
            by_name = {
                "weight_ih": (rows, width),
                "weight_hh": (rows, P),
                "bias_ih": (rows,),
                "bias_hh": (rows,),
                "weight_ch": (cell["peepholes"], H),
                "weight_hr": (P, H),
                "gain_ih": (rows,),
                "gain_hh": (rows,),
                "gain_c": (H,),
                "bias_c": (H,),
            }
            for names in self._layer_names(layer):
                shapes |= {ours: by_name[name] for name, ours in names.items()}
        return shapes

    def _drawn(self) -> dict[str, Array]:
        bound = self.hidden_size**-0.5
        constants = {"gain_ih": 1, "gain_hh": 1, "gain_c": 1, "bias_c": 0}

        def initial(name: str, shape: tuple[int, ...]) -> Array:
            constant = constants.get(name.partition("_l")[0])
            array = self._rng.uniform(-bound, bound, shape) if constant is None else np.full(shape, constant)
            return array.astype(self.dtype)

        return {name: initial(name, shape) for name, shape in self._shapes().items()}

    def _build(self, weights: dict[str, Array]) -> None:
        place = place_of(weights)
        self._place = place
        self._weights = MappingProxyType(weights)
        self._frozen_as = ""
        self._layers = [
            self._place.Layer(
                self._kind,
                [{name: weights[ours] for name, ours in names.items()} for names in self._layer_names(layer)],
            )
            for layer in range(self.num_layers)
        ]

    @property
    def weights(self) -> Mapping[str, Array]:
        """The weight arrays under torch's names and in its layout. They are the truth: change them in place."""
        return self._weights

    def load(self, weights: Any) -> Self:
        """Copy weights in.

        Parameters
        ----------
        weights : mapping of str to array_like
            Exactly this module's names, each in its shape; float32 or float64.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A name, shape or dtype does not fit, or the module is frozen. Nothing was changed.
        """
        if self.frozen:
            raise ValueError("weights: expected a module that is not frozen; unfreeze() it first")
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights: expected a mapping of names to arrays, got {type(weights).__name__}")
        if weights.keys() != self.weights.keys():
            missing, extra = self.weights.keys() - weights.keys(), weights.keys() - self.weights.keys()
            raise ValueError(f"weights: missing {sorted(missing)}, unknown {sorted(map(str, extra))}")
        arrays = {name: self._place.source(weights[name], f"weights[{name!r}]") for name in self.weights}
        for name, array in arrays.items():
            if array.dtype.type not in (np.float32, np.float64):
                raise TypeError(f"weights[{name!r}]: expected a float32 or float64 array, got dtype {array.dtype}")
            if array.shape != self.weights[name].shape:
                raise ValueError(f"weights[{name!r}]: expected shape {self.weights[name].shape}, got {array.shape}")
        for name, array in arrays.items():
            self._place.assign(self.weights[name], array)
        return self

    def _host_weights(self) -> dict[str, Array]:
        """Give the weights in CPU memory."""
        return {name: self._place.host(array) for name, array in self.weights.items()}

    @property
    def device(self) -> str:
        """Where the weights are: "cpu" or "cuda"."""
        return str(self._place.name)

    def to(self, device: str) -> Self:
        """Move the weights: arrays of `weights` are new ones then, so make optimizers afterwards.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            CPU memory and NumPy arrays, or the memory of CuPy's current device and CuPy arrays. All arrays of calls are
            where the weights are.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            `device` is neither, or the module is frozen.
        ImportError, RuntimeError
            There is no CuPy, no CUDA build of fusedstep, or no driver.
        """
        self._build(moved(self.weights, self._place, device, self.frozen))
        return self

    @property
    def frozen(self) -> bool:
        """Whether a packed snapshot of the weights is in use."""
        return bool(self._layers[0].frozen)

    def freeze(self, weights: str | None = None) -> Self:
        """Pack a snapshot of the weights, once for all calls, and mark the arrays read-only until `unfreeze`.

        Parameters
        ----------
        weights : {"float32", "bfloat16", "int8"}, optional
            What the snapshot holds; the module's dtype where None. The others are for inference alone, and leave
            biases, gains and peepholes as they are. With "bfloat16" each weight is rounded to 8 significant bits: half
            the bytes. With "int8" each row of a weight matrix, and at every step each row of x and h (of r*h in a
            product that takes it), becomes integers from -127 to 127, of a scale max(abs(row))/127: a quarter of the
            bytes, and sums of integers, which are exact.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            `weights` is none of these, the module is not float32, or rows are too wide for "int8" (131072).

        Notes
        -----
        On CUDA nothing is packed: "bfloat16" and "int8" round as here, and save neither memory nor time. CuPy's arrays
        have no read-only flag: optimizers raise, and so does what else of this library would write there; writes by
        CuPy, or by a graph that was captured before, pass, and show in no call before `unfreeze`.
        """
        form = self._packing(weights)
        for layer in self._layers:
            layer.freeze(form)
        self._frozen_as = form
        return self

    def _packing(self, weights: Any) -> str:
        known = ("float32", "bfloat16", "int8") if self.dtype == np.float32 else ("float64",)
        if weights is not None and (not isinstance(weights, str) or weights not in known):
            raise ValueError(f"weights: expected {' or '.join(map(repr, known))}, got {weights!r}")
        return weights or self.dtype.name

    def unfreeze(self) -> Self:
        """Drop the snapshot and make the arrays writeable.

        Returns
        -------
        self
        """
        for layer in self._layers:
            layer.unfreeze()
        return self
