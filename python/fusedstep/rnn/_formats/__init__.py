"""Weights in and out: torch's state dicts, ONNX nodes and files, Keras arrays, and safetensors files.

A reader turns a source into options (what the constructor takes) and weights (by our names, in our layout), and checks
all of it first, under the names that the source gives. A source that does not say which GRU it holds is refused.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fusedstep._array import Array
from fusedstep.rnn._formats.common import Found, required
from fusedstep.rnn._formats.keras import read_keras
from fusedstep.rnn._formats.onnx import read_onnx
from fusedstep.rnn._formats.safetensors import MARK, read_safetensors
from fusedstep.rnn._formats.torch import read_torch, torch_names


class Formats:
    """What modules read and write: the base of `Module`.

    Weights are copied, so that a source may change afterwards. Errors name the argument and, in a source's own terms,
    what does not fit; then no module was made.
    """

    _options: ClassVar[tuple[str, ...]]  # what the constructor takes, by name, beyond sizes and dtype

    if TYPE_CHECKING:

        def __init__(self, input_size: Any, hidden_size: Any, num_layers: Any = 1, **options: Any) -> None: ...

        @property
        def weights(self) -> Mapping[str, Array]: ...

        def load(self, weights: Any) -> Self: ...

        def _host_weights(self) -> dict[str, Array]: ...

    @classmethod
    def _family(cls) -> str:
        return "GRU" if "reset_after" in cls._options else "LSTM"

    @classmethod
    def _made(cls, found: Found, **options: Any) -> Self:
        return cls(**found[0] | {name: value for name, value in options.items() if value is not None}).load(found[1])

    @classmethod
    def from_torch(
        cls, state_dict: Mapping[str, Any], *, batch_first: bool = False, dropout: float = 0.0, prefix: str = ""
    ) -> Self:
        """Make a module of the weights of a ``torch.nn.LSTM`` or ``torch.nn.GRU``.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Arrays or CPU tensors under torch's names; float32 or float64. Sizes, layers, directions, biases, projection
            and dtype are those of the arrays. Gains (``gain_ih_l0``, ...) make a module with ``layer_norm=True``.
        batch_first, dropout : optional
            As in the constructor: a state dict does not hold them.
        prefix : str, optional
            Read the names that begin with this, as ``"encoder.rnn."`` in the state dict of a model.

        Returns
        -------
        LSTM or GRU
            A GRU of torch is ``reset_after=True``.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape does not fit.
        TypeError
            An array is neither float32 nor float64, or not like the others, or not in CPU memory.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedstep.rnn import GRU
        >>> state_dict = {"rnn.weight_ih_l0": np.zeros((12, 3)), "rnn.weight_hh_l0": np.zeros((12, 4))}
        >>> GRU.from_torch(state_dict, prefix="rnn.").input_size
        3
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        keys = torch_names(state_dict, "state_dict", prefix, cls._family(), peephole=False)
        titles = {name: f"state_dict[{key!r}]" for name, key in keys.items()}
        found = read_torch(cls._family(), {name: state_dict[key] for name, key in keys.items()}, titles)
        kind = {"reset_after": True} if cls._family() == "GRU" else {}
        return cls._made(found, batch_first=batch_first, dropout=dropout, **kind)

    def to_torch(self) -> dict[str, Array]:
        """Copy the weights for a ``torch.nn.LSTM`` or ``torch.nn.GRU``.

        Returns
        -------
        dict of str to ndarray
            Under torch's names, in its order, for ``load_state_dict`` once ``torch.from_numpy`` made tensors of them.
            With ``layer_norm=True``, of which torch has no module, also the gains, and ``bias_c`` of an LSTM.

        Raises
        ------
        ValueError
            The module has peepholes or coupled gates, or is a GRU with ``reset_after=False``: torch has no such module.

        Examples
        --------
        >>> from fusedstep.rnn import LSTM
        >>> list(LSTM(3, 4).to_torch())
        ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
        """
        for name, ours in (("peephole", False), ("coupled", False), ("reset_after", True)):
            value = getattr(self, name, ours)
            if value != ours:
                raise ValueError(f"to_torch: expected {name}={ours}, as torch has no other, got {name}={value}")
        return {name: array.copy() for name, array in self._host_weights().items()}

    @classmethod
    def from_onnx(cls, node_or_file: Any, tensors: Any = None, *, batch_first: bool | None = None) -> Self:
        """Make a module of ONNX's operator LSTM or GRU.

        Parameters
        ----------
        node_or_file : node, path or bytes
            An ``onnx.NodeProto`` (or an object with its fields), or a model: its path, or its content. The graph of a
            model has one node of this class' operator, or several that are stacked: each takes the output of the one
            before, at all steps and in all directions.
        tensors : mapping of str to array_like, optional
            With a node: at least its weights W, R, B and P under the names that the node calls them, as
            ``onnx.numpy_helper.to_array`` makes them of initializers. None with a file.
        batch_first : bool, optional
            As in the constructor; where None, what the node's attribute `layout` says.

        Returns
        -------
        LSTM or GRU
            A GRU is ``reset_after=True`` where `linear_before_reset` is 1; ONNX's default is 0. An LSTM is `coupled`
            where `input_forget` is 1: the weights of f are those of ONNX's i, negated.

        Raises
        ------
        ValueError
            A weight is missing, a shape does not fit, a model holds no such node or unrelated ones, or an attribute
            asks for what these modules lack: direction "reverse", clip, other activations.
        TypeError
            An array is neither float32 nor float64, or not like the others.
        ImportError
            A file is given, and the package onnx is not installed. A node does not need it.

        Notes
        -----
        Lengths and initial states are arguments of calls. A constant in their place is refused, but for states of
        zeros; what a graph computes for them is not looked at. ONNX's LSTM has no projection.

        Examples
        --------
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> from fusedstep.rnn import GRU
        >>> node = SimpleNamespace(op_type="GRU", input=["x", "W", "R"], attribute=[])
        >>> m = GRU.from_onnx(node, {"W": np.zeros((1, 12, 3)), "R": np.zeros((1, 12, 4))})
        >>> m.hidden_size, m.reset_after
        (4, False)
        """
        return cls._made(read_onnx(cls._family(), node_or_file, tensors), batch_first=batch_first)

    @classmethod
    def from_keras(cls, arrays: Sequence[Any], *, reset_after: bool | None = None, batch_first: bool = True) -> Self:
        """Make a module of the weights of a ``keras.layers.LSTM`` or ``GRU``, or a ``Bidirectional`` of one.

        Parameters
        ----------
        arrays : list of array_like
            What ``get_weights()`` of the layer returns: kernel (inputs, gates*H), recurrent kernel (H, gates*H) and,
            with `use_bias`, bias; twice so of a ``Bidirectional``. For layers on top of each other, a list of such.
        reset_after : bool, optional
            That of a GRU. A bias tells it by its shape: (2, 3*H) is True, (3*H,) is False. It must be given where a
            layer has no bias.
        batch_first : bool, optional
            As in the constructor.

        Returns
        -------
        LSTM or GRU
            Keras' single bias is ``bias_ih``; ``bias_hh`` is zeros then.

        Raises
        ------
        ValueError
            A count or a shape does not fit, or `reset_after` is not told, or told otherwise by a bias.
        TypeError
            An array is neither float32 nor float64, or not like the others; or `reset_after` of an LSTM is given.

        Notes
        -----
        Weights do not tell a layer's other options. These modules compute what Keras does with its defaults, activation
        "tanh" and recurrent_activation "sigmoid", and for a ``Bidirectional`` merge_mode "concat". Several layers in
        one flat list (``get_weights`` of a model) are no form of `arrays`: six arrays would be two directions.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedstep.rnn import GRU
        >>> GRU.from_keras([np.zeros((3, 12)), np.zeros((4, 12)), np.zeros((2, 12))]).reset_after
        True
        """
        return cls._made(read_keras(cls._family(), arrays, reset_after), batch_first=batch_first)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write weights and options to a file of safetensors.

        Parameters
        ----------
        file : path
            Where to; a file that is there is replaced.

        Raises
        ------
        ImportError
            The package safetensors is not installed.

        Notes
        -----
        Weights stand under torch's names, so that ``safetensors.torch.load_file`` gives a state dict; options stand in
        the metadata as JSON, under names that begin with "fusedstep.".

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from fusedstep.rnn import GRU
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "gru.safetensors")
        ...     GRU(3, 4, reset_after=False).save(file)
        ...     GRU.from_safetensors(file).reset_after
        False
        """
        package = required("safetensors.numpy", "save")
        if not isinstance(file, str | os.PathLike):
            raise TypeError(f"file: expected a path, got {type(file).__name__}")
        said = {"class": self._family()} | {name: getattr(self, name) for name in self._options}
        metadata = {MARK + name: json.dumps(value) for name, value in said.items()}
        package.save_file(self._host_weights(), os.fspath(file), metadata=metadata)

    @classmethod
    def from_safetensors(
        cls,
        file: str | os.PathLike[str],
        *,
        reset_after: bool | None = None,
        batch_first: bool | None = None,
        dropout: float | None = None,
        prefix: str = "",
    ) -> Self:
        """Make a module of a file that `save` wrote, or of one that holds weights under torch's names.

        Parameters
        ----------
        file : path
            The file.
        reset_after : bool, optional
            That of a GRU: it must be given where the file was not written by `save`.
        batch_first, dropout : optional
            As in the constructor; where None, what `save` wrote, else False and 0.
        prefix : str, optional
            Read the names that begin with this, as ``"encoder.rnn."`` in the file of a model.

        Returns
        -------
        LSTM or GRU

        Raises
        ------
        ValueError
            A name, shape or option does not fit, or the file does not tell the kind of a GRU.
        TypeError
            An array is neither float32 nor float64, or not like the others; or `reset_after` of an LSTM is given.
        ImportError
            The package safetensors is not installed.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from fusedstep.rnn import LSTM
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "lstm.safetensors")
        ...     LSTM(3, 4, peephole=True, batch_first=True).save(file)
        ...     m = LSTM.from_safetensors(file)
        >>> m.hidden_size, m.peephole, m.batch_first
        (4, True, True)
        """
        found = read_safetensors(cls._family(), file, prefix, reset_after)
        return cls._made(found, batch_first=batch_first, dropout=dropout)
