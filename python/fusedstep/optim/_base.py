"""What every optimizer shares: parameters, groups, states, the step and its record."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from fusedstep import _array, _core, _device
from fusedstep._array import Array
from fusedstep._core import StepInfo
from fusedstep.optim._hyper import Hyper, flag, positive, whole
from fusedstep.optim._memory import Parameter, memory_of

Values = dict[str, Any]


def _is_array(obj: object) -> bool:
    return hasattr(obj, "__array__") or hasattr(obj, "__dlpack__") or _device.is_cuda(obj)


def _groups(params: Any) -> tuple[Sequence[Mapping[str, Any]], bool]:
    """Return `params` as parameter groups, and whether it is a single array."""
    if isinstance(params, Mapping):
        return [{"params": params}], False
    if _is_array(params) or not isinstance(params, Iterable):
        return [{"params": params}], True
    items = list(params)
    nested = sum(isinstance(item, Mapping) for item in items)
    if nested not in (0, len(items)):
        raise TypeError("params: expected arrays or parameter groups (dicts with 'params'), got both")
    return items if nested else [{"params": items}], False


def _arrays(given: Any) -> Iterable[Any]:
    """Return what a group's ``params`` holds: the values of a dict, one array, or several."""
    if isinstance(given, Mapping):
        return given.values()
    return [given] if _is_array(given) or not isinstance(given, Iterable) else given


class Group(MutableMapping[str, Any]):
    """A parameter group: ``params`` and the hyperparameters of its arrays, checked as they are set.

    Setting one takes effect at the next step. ``params`` is a list that does not change.
    """

    def __init__(self, optimizer: "Optimizer", index: int, arrays: list[Any], values: Values) -> None:
        self._optimizer = optimizer
        self._index = index
        self._arrays = arrays
        self._values = values

    def __getitem__(self, key: str) -> Any:
        """Return a hyperparameter, or the list of arrays under ``"params"``."""
        return list(self._arrays) if key == "params" else self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        """Check and set a hyperparameter."""
        optimizer = self._optimizer
        if key == "params":
            raise TypeError("params of a parameter group cannot be replaced; make a new optimizer")
        checked = optimizer.hyper(key).check(key, value)
        self.check_structure(key, checked)
        self.replace({key: checked})

    def __delitem__(self, key: str) -> None:
        """Refuse: a hyperparameter always has a value."""
        raise TypeError(f"{key} cannot be deleted from a parameter group")

    def __iter__(self) -> Iterator[str]:
        """Iterate the keys, ``"params"`` first."""
        yield "params"
        yield from self._values

    def __len__(self) -> int:
        """Count the keys."""
        return 1 + len(self._values)

    def __repr__(self) -> str:
        """Show the hyperparameters and the number of arrays."""
        return f"Group({', '.join(f'{k}={v}' for k, v in self._values.items())}, params={len(self._arrays)} arrays)"

    def replace(self, checked: Values) -> None:
        """Set checked hyperparameters."""
        values = {**self._values, **checked}
        _, hyper = self._optimizer.rule(values)
        self._optimizer._plan.set_hyper(self._index, hyper, values["maximize"])
        self._values.update(checked)

    def check_structure(self, key: str, value: Any) -> None:
        """Raise ValueError where `value` would need other states, or states that started from another value."""
        optimizer = self._optimizer

        def structure(values: Values) -> tuple[str, float, bool]:
            return optimizer.rule(values)[0], optimizer.initial_state(values), values["master"]

        if optimizer.hyper(key).structural and structure({**self._values, key: value}) != structure(self._values):
            old = self._values[key]
            raise ValueError(f"{key} decides the states at construction: it was {old!r} then, got {value!r}")


class Optimizer:
    """Base of the optimizers. A subclass names its hyperparameters, its compiled rule and its states.

    Attributes
    ----------
    param_groups : list of Group
        Mappings with ``params`` and the hyperparameters, which may be set between steps.
    """

    # A misspelt hyperparameter raises: no attribute of that name comes into being.
    __slots__ = (
        "__weakref__",
        "_keys",
        "_memory",
        "_parameters",
        "_plan",
        "_single",
        "_states",
        "_step",
        "param_groups",
    )

    master = Hyper(flag, structural=True)

    # What is not loaded: torch's choices of its implementation, its schedulers' numbers, and the parameters' names; and
    # how the parameters that were saved were stored.
    _foreign: ClassVar[frozenset[str]] = frozenset(
        {"capturable", "decoupled_weight_decay", "differentiable", "foreach", "fused", "master"}
        | {"base_momentum", "initial_lr", "max_lr", "max_momentum", "min_lr", "param_names", "params"}
    )

    @classmethod
    def rule(cls, values: Values) -> tuple[str, list[float]]:
        """Name the compiled rule for these hyperparameters, and list those it reads in its order."""
        raise NotImplementedError

    @classmethod
    def state_names(cls, values: Values) -> tuple[str, ...]:
        """Name the states, as torch does, in the order of the compiled rule."""
        raise NotImplementedError

    @classmethod
    def flops(cls, used: frozenset[str]) -> dict[str, int]:
        """Count the operations on an element, by compiled rule, where hyperparameters that are not 0 are `used`."""
        raise NotImplementedError

    @classmethod
    def initial_state(cls, values: Values) -> float:  # noqa: ARG003
        """Return the value that states start from."""
        return 0.0

    @classmethod
    def hyper(cls, name: str) -> "Hyper[Any]":
        """Return the hyperparameter of that name; KeyError with the names that exist."""
        attribute = getattr(cls, name, None)
        if not isinstance(attribute, Hyper):
            names = [n for n in dir(cls) if isinstance(getattr(cls, n), Hyper)]
            raise KeyError(f"{cls.__name__} has no hyperparameter {name!r}; there are {', '.join(names)}")
        return attribute

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Values:
        """Check hyperparameters by name."""
        return {name: cls.hyper(name).check(name, value) for name, value in values.items()}

    def __init__(self, params: Any, defaults: Values) -> None:
        defaults = self.checked(defaults)
        groups, single = _groups(params)
        for i, group in enumerate(groups):
            if "params" not in group:
                raise ValueError(f"params[{i}]: expected a parameter group with the key 'params', got {sorted(group)}")
        named = [group["params"] for group in groups if isinstance(group["params"], Mapping)]
        if len(named) not in (0, len(groups)):
            raise TypeError("params: expected names in every parameter group or in none")
        keys = [key for names in named for key in names] or None
        if keys is not None and len(set(keys)) != len(keys):
            raise ValueError(f"params: expected every name once, got {keys}")
        collected: list[tuple[list[Any], Values]] = []
        for group in groups:
            own = self.checked({name: value for name, value in group.items() if name != "params"})
            collected.append((list(_arrays(group["params"])), {**defaults, **own}))
        if not any(arrays for arrays, _ in collected):
            raise ValueError("params: expected at least one array, got none")
        self._build(keys, single, collected)

    @staticmethod
    def _name(single: bool, keys: Sequence[str] | None, index: int) -> str:
        return "params" if single else f"params[{index if keys is None else repr(keys[index])}]"

    def _build(
        self,
        keys: list[str] | None,
        single: bool,
        groups: list[tuple[list[Any], Values]],
        states: list[dict[str, Array]] | None = None,
        steps: list[float] | None = None,
    ) -> None:
        given = [obj for arrays, _ in groups for obj in arrays]

        def name_of(i: int) -> str:
            return self._name(single, keys, i)

        self._memory = memory = memory_of(given, name_of)
        self._parameters = parameters = [memory.parameter(obj, name_of(i)) for i, obj in enumerate(given)]
        _array.check_extents_apart([(p.address, p.nbytes) for p in parameters], name_of)
        self._keys, self._single = keys, single
        self._plan = memory.plan(keys, single)
        self._states: list[dict[str, Any]] = []
        self.param_groups: list[Group] = []
        for index, (arrays, values) in enumerate(groups):
            first = len(self._states)
            own = parameters[first : first + len(arrays)]
            for parameter in own:
                saved = {} if states is None else states[len(self._states)]
                self._states.append(self._new_states(parameter, values, saved))
            self._add_group(values, own, self._states[first:])
            self.param_groups.append(Group(self, index, [p.array for p in own], values))
        self._plan.start(steps or [0.0] * len(parameters))
        self._step: Callable[..., StepInfo] = self._plan.stepper()

    def _new_states(self, parameter: Parameter, values: Values, saved: Mapping[str, Array]) -> dict[str, Any]:
        """Allocate a parameter's states, as they were saved or from their first value; and its master copy."""
        own: dict[str, Any] = {}
        for name in self.state_names(values):
            own[name] = self._memory.empty_state(parameter)
            self._memory.fill(own[name], saved.get(name, self.initial_state(values)))
        master = self._memory.master(parameter) if values["master"] else None
        if master is not None:
            own["master"] = master
            self._memory.fill(master, saved.get("master", master))
        return own

    def _add_group(self, values: Values, parameters: list[Parameter], states: list[dict[str, Any]]) -> None:
        rule, hyper = self.rule(values)
        arrays = [p.array for p in parameters]
        self._plan.add_group(rule, hyper, values["maximize"], arrays, [tuple(state.values()) for state in states])

    def step(
        self,
        grads: Any,
        *,
        max_norm: float | None = None,
        grad_scale: float = 1.0,
        check_finite: bool = False,
        zero_grads: bool = False,
    ) -> StepInfo:
        """Update the parameters in place by one step.

        Parameters
        ----------
        grads : array_like, sequence of array_like or dict
            One gradient per parameter, given as the parameters were (groups: one flat list): same shape and dtype,
            C-contiguous. None leaves that parameter and its step count alone, as in torch. Only read, unless
            `zero_grads`.
        max_norm : float, optional
            Clip: scale the gradients by min(1, max_norm / (norm + 1e-6)), one norm over all of them.
        grad_scale : float, optional
            The gradients are those of a loss multiplied by this: divide by it.
        check_finite : bool, optional
            Look at every gradient first. With this or `max_norm`, one that is not finite leaves everything as it was.
        zero_grads : bool, optional
            Set the gradients to zero in the same pass.

        Returns
        -------
        StepInfo
            `norm` of the unscaled gradients before clipping (None without a norm pass), `applied`, and
            `first_nonfinite`, the index or name of the first tensor with a gradient that is not finite. Of arrays in
            CUDA memory, a norm pass leaves all three there, as CuPy arrays of no dimension, the last one an index or
            -1: reading one waits for the GPU.

        Raises
        ------
        ValueError
            A number of gradients, shape or value is wrong, an array is not contiguous, shares memory with a parameter,
            or a parameter became read-only (the weights of a frozen cell). Nothing was changed.
        TypeError
            A dtype differs, an argument is no array, or it is not where the parameters are. Nothing was changed.
        RuntimeError
            On CUDA: CuPy's current device is not that of the parameters, or CUDA refuses a launch.

        Notes
        -----
        Reads a gradient once, or twice where there is a norm pass; reads and writes parameter and states once. On CUDA
        a step follows the order of CuPy's current stream and waits for nothing, so that a graph can record it.
        """
        return self._step(grads, max_norm, grad_scale, check_finite, zero_grads)

    @property
    def state(self) -> list[dict[str, Any]]:
        """The states of each parameter by torch's names, and its ``step`` count. The arrays are the optimizer's own.

        With `master`, also the copy of that name. On CUDA the counts are there too: this waits for them.
        """
        return [{"step": int(t), **own} for t, own in zip(self._plan.steps, self._states, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Copy the states and hyperparameters as plain arrays and numbers, laid out and named as torch does.

        Returns
        -------
        dict
            ``"state"``: index to ``{"step": t, name: array}``; ``"param_groups"``: hyperparameters and, under
            ``"params"``, the indices of the parameters; ``"param_names"`` where they have names. The arrays are NumPy's
            also where the states are in CUDA memory.
        """
        groups: list[Values] = []
        count = 0
        for group in self.param_groups:
            own = range(count, count + len(group._arrays))
            names = {} if self._keys is None else {"param_names": [self._keys[i] for i in own]}
            groups.append({**group._values, **names, "params": list(own)})
            count = own.stop
        state = {
            i: {"step": int(t), **{name: np.copy(v) for name, v in own.items()}}
            for i, (t, own) in enumerate(zip(self._plan.steps, self._states_on_cpu(), strict=True))
        }
        return {"state": state, "param_groups": groups}

    def _states_on_cpu(self) -> list[dict[str, Array]]:
        return [{name: self._memory.on_cpu(v) for name, v in own.items()} for own in self._states]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy states and hyperparameters in from `state_dict`, ours or that of torch's optimizer of the same name.

        Parameters
        ----------
        state_dict : mapping
            As `state_dict` returns it. Arrays may be other libraries', on the CPU or in CUDA memory, wherever this
            optimizer's are. A parameter without a state starts anew; a copy (`master`) that is missing, from the
            parameter. Parameters are matched by name where both sides have the same names, otherwise in order.

        Raises
        ------
        ValueError, TypeError, KeyError
            Groups, parameters, names, shapes or values do not fit this optimizer. Nothing was changed.
        """
        groups, states = state_dict["param_groups"], state_dict["state"]
        if len(groups) != len(self.param_groups):
            raise ValueError(f"param_groups: expected {len(self.param_groups)} groups, got {len(groups)}")
        all_values: list[Values] = []
        sources: list[tuple[float, Mapping[str, Array | float]]] = []  # by parameter
        for i, (theirs, ours) in enumerate(zip(groups, self.param_groups, strict=True)):
            if len(theirs["params"]) != len(ours._arrays):
                raise ValueError(f"param_groups[{i}]: expected {len(ours._arrays)} params, got {len(theirs['params'])}")
            values = {k: _plain(v) for k, v in theirs.items() if k not in self._foreign}
            values = {**ours._values, **self.checked(values)}
            if self.rule(values)[0] != self.rule(ours._values)[0]:
                raise ValueError(f"param_groups[{i}]: its options need other states than this optimizer's: {values}")
            all_values.append(values)
            for index in self._matched(theirs, len(sources)):
                parameter = self._parameters[len(sources)]
                sources.append(self._saved(f"state[{index!r}]", states.get(index) or {}, parameter, values))
        for parameter, own, (_, wanted) in zip(self._parameters, self._states, sources, strict=True):
            for name, to in own.items():
                self._memory.fill(to, wanted[name] if name in wanted else self._memory.master(parameter))
        self._plan.steps = [steps for steps, _ in sources]
        for group, values in zip(self.param_groups, all_values, strict=True):
            group.replace(values)

    def _matched(self, theirs: Mapping[str, Any], first: int) -> list[Any]:
        """Return the indices of a saved group's parameters in the order of ours, which begin at `first`."""
        indices = list(theirs["params"])
        by_name = dict(zip(theirs.get("param_names", indices), indices, strict=True))
        ours = [] if self._keys is None else self._keys[first : first + len(indices)]
        return [by_name[key] for key in ours] if by_name.keys() == set(ours) else indices

    @classmethod
    def _saved(
        cls, where: str, source: Mapping[str, Any], like: Parameter, values: Values
    ) -> tuple[float, Mapping[str, Array | float]]:
        """Check a parameter's saved state: its step count, and what to copy into each state."""
        names = cls.state_names(values)
        if not source:
            return 0.0, dict.fromkeys(names, cls.initial_state(values))
        if not {"step", *names} <= source.keys():
            raise ValueError(f"{where}: expected {('step', *names)}, got {tuple(source)}")
        arrays = {name: _on_cpu(source[name], f"{where}[{name!r}]") for name in (*names, "master") if name in source}
        for name, array in arrays.items():
            if array.dtype.type not in (np.float32, np.float64):
                raise TypeError(f"{where}[{name!r}]: expected a float32 or float64 array, got dtype {array.dtype}")
            if array.shape != like.shape:
                raise ValueError(f"{where}[{name!r}]: expected shape {like.shape}, got {array.shape}")
        return whole(f"{where}['step']", _plain(source["step"])), arrays

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy parameters, states, step counts and groups; the copy updates its own parameters."""
        groups = [(group._arrays, dict(group._values)) for group in self.param_groups]
        return _rebuild, (type(self), self._keys, self._single, groups, self._states_on_cpu(), self._plan.steps)

    def __repr__(self) -> str:
        """Show the groups."""
        return f"{type(self).__name__}({', '.join(map(repr, self.param_groups))})"

    @classmethod
    def _new(cls, *args: Any) -> Self:
        optimizer = cls.__new__(cls)
        optimizer._build(*args)
        return optimizer

    @classmethod
    def _update(
        cls, names: Sequence[str], arrays: Sequence[Any], step: object, grad_scale: object, values: Mapping[str, Any]
    ) -> None:
        """One array's step for the functional forms: arrays = (p, g, *states)."""
        checked = cls.checked(values)
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 1:
            raise ValueError(f"step must be an integer from 1 on, got {step!r}")
        scale = positive("grad_scale", grad_scale)
        rule, hyper = cls.rule(checked)
        multiplier = (-1 if checked["maximize"] else 1) / scale
        device = _device.common(arrays, lambda i: names[i])
        if device is None:
            _core.update(rule, hyper, float(step), multiplier, names, arrays)
        else:
            device.core.update(device, rule, hyper, float(step), multiplier, names, arrays)


def _plain(value: Any) -> Any:
    """Return a hyperparameter of another library's as a number (torch keeps a learning rate as a tensor on request)."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _on_cpu(obj: Any, name: str) -> Array:
    """View an array in CPU memory, or copy one there."""
    return _device.copy(obj) if _device.is_cuda(obj) else _array.view(obj, name)


def _rebuild(cls: type[Optimizer], *args: Any) -> Optimizer:
    return cls._new(*args)
