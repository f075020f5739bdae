"""Hyperparameters: what each may be, and how an optimizer reads and sets them."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from fusedstep.optim._base import Optimizer

T = TypeVar("T")


def number(name: str, value: object) -> float:
    """Return `value` as a float; TypeError where it is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def nonnegative(name: str, value: object) -> float:
    """Return a finite number, at least 0."""
    x = number(name, value)
    if not 0 <= x < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return x


def positive(name: str, value: object) -> float:
    """Return a finite number above 0."""
    x = number(name, value)
    if not 0 < x < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")
    return x


def whole(name: str, value: object) -> float:
    """Return an integral number from 0 on, as a float."""
    x = number(name, value)
    if not (x >= 0 and x.is_integer()):
        raise ValueError(f"{name} must be an integer from 0 on, got {value!r}")
    return x


def fraction(name: str, value: object) -> float:
    """Return a number in [0, 1)."""
    x = number(name, value)
    if not 0 <= x < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return x


def unit(name: str, value: object) -> float:
    """Return a number in [0, 1]."""
    x = number(name, value)
    if not 0 <= x <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return x


def betas(name: str, value: object) -> tuple[float, float]:
    """Return a pair of numbers in [0, 1)."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (beta1, beta2), got {value!r}")
    return fraction("beta1", value[0]), fraction("beta2", value[1])


def flag(name: str, value: object) -> bool:
    """Return a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


class Hyper(Generic[T]):
    """A hyperparameter as a class attribute of an optimizer.

    Read or set on an optimizer it stands for that hyperparameter of every parameter group.

    Parameters
    ----------
    check : callable
        ``check(name, value)`` returns the value as it is kept, or raises.
    structural : bool, optional
        Whether it decides which states there are, or what they start from. Then a change that would have made others
        raises.
    """

    def __init__(self, check: Callable[[str, object], T], *, structural: bool = False) -> None:
        self.check = check
        self.structural = structural
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, optimizer: None, owner: type) -> "Hyper[T]": ...
    @overload
    def __get__(self, optimizer: "Optimizer", owner: type) -> T: ...
    def __get__(self, optimizer: "Optimizer | None", owner: type) -> "Hyper[T] | T":
        if optimizer is None:
            return self
        values: list[Any] = [group[self.name] for group in optimizer.param_groups]
        if any(value != values[0] for value in values):
            raise ValueError(f"{self.name} differs between the parameter groups; read param_groups[i][{self.name!r}]")
        first: T = values[0]
        return first

    def __set__(self, optimizer: "Optimizer", value: T) -> None:
        checked = self.check(self.name, value)
        for group in optimizer.param_groups:  # every group is asked before any is changed
            group.check_structure(self.name, checked)
        for group in optimizer.param_groups:
            group[self.name] = checked
