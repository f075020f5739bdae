"""Adagrad: class, functional form and the reference."""

from typing import Any

import numpy as np

from fusedstep._array import Array
from fusedstep.optim._base import Optimizer, Values
from fusedstep.optim._hyper import Hyper, flag, nonnegative


def adagrad_reference(
    p: Array,
    g: Array,
    states: tuple[Array, ...],
    *,
    step: int,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    multiplier: float = 1.0,
    initial_accumulator_value: float = 0.0,  # noqa: ARG001
) -> None:
    """Adagrad in NumPy, in place and in the operation order of the compiled rule: equal to it bit for bit.

    Parameters
    ----------
    p, g : ndarray
        Parameter and gradient, float32 or float64.
    states : tuple of ndarray
        ``sum``, which starts from `initial_accumulator_value`.
    step : int
        Count of this step, from 1.
    multiplier : float
        What the gradient is multiplied by first: the clip factor over the gradient scale.
    """
    T = p.dtype.type
    (total,) = states
    g = g * T(-multiplier if maximize else multiplier)
    if T(weight_decay) != 0:
        g = g + T(weight_decay) * p
    total += g * g
    p -= T(lr / (1 + (step - 1) * lr_decay)) * (g / (np.sqrt(total) + T(eps)))
    assert g.dtype == total.dtype == p.dtype


class Adagrad(Optimizer):
    """Adagrad over any number of arrays at once.

    ``p -= lr/(1 + (t-1)*lr_decay) * g / (sqrt(sum) + eps)``, as torch.optim.Adagrad.

    Parameters
    ----------
    params : array_like, sequence of array_like, dict or sequence of dict
        As for `Adam`.
    lr : float, optional
        Learning rate.
    lr_decay : float, optional
        Decay of the learning rate with the step count.
    weight_decay : float, optional
        Added to the gradient: ``g + weight_decay * p``.
    initial_accumulator_value : float, optional
        What the sum of squares starts from; cannot change later.
    eps : float, optional
        Added to the root.
    maximize : bool, optional
        Ascend.
    master : bool, optional
        Update a float32 copy of each float16 or bfloat16 parameter, which becomes the copy rounded: for arrays in CUDA
        memory. Cannot change after construction.

    Raises
    ------
    ValueError, TypeError
        An argument is out of range or no array; the message names it.

    Notes
    -----
    State (torch's name): ``sum``. A step equals `adagrad_reference` bit for bit.

    References
    ----------
    .. [1] Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
       JMLR 12, 2011, the diagonal form.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import Adagrad
    >>> w = np.array([1.0, -2.0], dtype=np.float32)
    >>> opt = Adagrad(w, lr=0.5)
    >>> for _ in range(100):
    ...     info = opt.step(2 * w)
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    __slots__ = ()

    lr = Hyper(nonnegative)
    lr_decay = Hyper(nonnegative)
    weight_decay = Hyper(nonnegative)
    initial_accumulator_value = Hyper(nonnegative, structural=True)
    eps = Hyper(nonnegative)
    maximize = Hyper(flag)

    reference = staticmethod(adagrad_reference)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        master: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
                "master": master,
            },
        )

    @classmethod
    def rule(cls, values: Values) -> tuple[str, list[float]]:
        """Name the compiled rule and list its hyperparameters."""
        return "adagrad", [values[key] for key in ("lr", "lr_decay", "weight_decay", "eps")]

    @classmethod
    def state_names(cls, values: Values) -> tuple[str, ...]:  # noqa: ARG003
        """Name the states as torch does."""
        return ("sum",)

    @classmethod
    def initial_state(cls, values: Values) -> float:
        """Return the value that the sum starts from."""
        return float(values["initial_accumulator_value"])

    @classmethod
    def flops(cls, used: frozenset[str]) -> dict[str, int]:
        """Count: the sum 2, p 5; decay 2."""
        return {"adagrad": 7 + 2 * ("weight_decay" in used)}


def adagrad_step(
    p: Any,
    g: Any,
    sum: Any,  # noqa: A002
    *,
    step: int,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    """Take one Adagrad step on one array, in place: for callers that keep their own states.

    Parameters
    ----------
    p, g, sum : array_like
        Parameter, gradient (only read), and the sum of its squares: one shape and dtype, float32 or float64,
        C-contiguous, no two sharing memory.
    step : int
        Count of this step, from 1.
    lr, lr_decay, weight_decay, eps, maximize
        As for `Adagrad`.
    grad_scale : float, optional
        Divide the gradient by this.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing was changed.

    References
    ----------
    .. [1] Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
       JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import adagrad_step
    >>> p, s = np.ones(2), np.zeros(2)
    >>> adagrad_step(p, np.array([0.5, -3.0]), s, step=1, lr=0.1)
    >>> p.round(6).tolist()
    [0.9, 1.1]
    """
    values = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps, "maximize": maximize}
    Adagrad._update(("p", "g", "sum"), (p, g, sum), step, grad_scale, values)
