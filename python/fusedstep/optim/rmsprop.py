"""RMSprop: class, functional form and the reference."""

from typing import Any

import numpy as np

from fusedstep._array import Array
from fusedstep.optim._base import Optimizer, Values
from fusedstep.optim._hyper import Hyper, flag, nonnegative, unit


def rmsprop_reference(
    p: Array,
    g: Array,
    states: tuple[Array, ...],
    *,
    step: int = 1,  # noqa: ARG001
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
    multiplier: float = 1.0,
) -> None:
    """RMSprop in NumPy, in place and in the operation order of the compiled rule: equal to it bit for bit.

    Parameters
    ----------
    p, g : ndarray
        Parameter and gradient, float32 or float64.
    states : tuple of ndarray
        ``square_avg``, with `centered` ``grad_avg``, with `momentum` ``momentum_buffer``.
    step : int
        Count of this step, which RMSprop does not need.
    multiplier : float
        What the gradient is multiplied by first: the clip factor over the gradient scale.
    """
    T = p.dtype.type
    v = states[0]
    g = g * T(-multiplier if maximize else multiplier)
    if T(weight_decay) != 0:
        g = g + T(weight_decay) * p
    v[...] = T(alpha) * v + T(1 - alpha) * g * g
    if centered:
        mean = states[1]
        d = g - mean
        mean[...] = mean + T(1 - alpha) * d if T(1 - alpha) < T(0.5) else g - T(alpha) * d
        average = np.sqrt(np.maximum(v - mean * mean, T(0))) + T(eps)
    else:
        average = np.sqrt(v) + T(eps)
    if momentum != 0:
        buffer = states[-1]
        buffer[...] = T(momentum) * buffer + g / average
        p -= T(lr) * buffer
    else:
        p -= T(lr) * (g / average)
    assert all(a.dtype == p.dtype for a in (g, average, *states))


class RMSprop(Optimizer):
    """RMSprop, optionally centered or with momentum, over any number of arrays at once.

    ``p -= lr * g / (sqrt(v) + eps)``, as torch.optim.RMSprop.

    Parameters
    ----------
    params : array_like, sequence of array_like, dict or sequence of dict
        As for `Adam`.
    lr : float, optional
        Learning rate.
    alpha : float, optional
        Decay of the running mean of the squared gradient, in [0, 1].
    eps : float, optional
        Added to the root.
    weight_decay : float, optional
        Added to the gradient: ``g + weight_decay * p``.
    momentum : float, optional
        ``buffer = momentum * buffer + g / (sqrt(v) + eps)``, and the step is ``lr * buffer``. Whether it is 0 cannot
        change after construction.
    centered : bool, optional
        Divide by an estimate of the standard deviation, ``sqrt(max(v - mean**2, 0)) + eps``. Cannot change after
        construction.
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
    States (torch's names): ``square_avg``, ``grad_avg``, ``momentum_buffer``. torch does not clamp the variance at 0
    and reaches NaN on constant gradients; ours is clamped. A step equals `rmsprop_reference` bit for bit.

    References
    ----------
    .. [1] Tieleman and Hinton, "Lecture 6.5: RMSprop", Coursera, 2012.
    .. [2] Graves, "Generating Sequences With Recurrent Neural Networks", 2013, section 4.2 (centered).

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import RMSprop
    >>> w = np.array([1.0, -2.0], dtype=np.float32)
    >>> opt = RMSprop(w, lr=0.05, centered=True)
    >>> for _ in range(100):
    ...     info = opt.step(2 * w)
    >>> bool(np.abs(w).max() < 0.2)
    True
    """

    __slots__ = ()

    lr = Hyper(nonnegative)
    alpha = Hyper(unit)
    eps = Hyper(nonnegative)
    weight_decay = Hyper(nonnegative)
    momentum = Hyper(nonnegative, structural=True)
    centered = Hyper(flag, structural=True)
    maximize = Hyper(flag)

    reference = staticmethod(rmsprop_reference)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        master: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
                "master": master,
            },
        )

    @classmethod
    def rule(cls, values: Values) -> tuple[str, list[float]]:
        """Name the compiled rule and list its hyperparameters."""
        name = "rmsprop" + "_centered" * values["centered"] + "_momentum" * (values["momentum"] != 0)
        return name, [values[key] for key in ("lr", "alpha", "eps", "weight_decay", "momentum")]

    @classmethod
    def state_names(cls, values: Values) -> tuple[str, ...]:
        """Name the states as torch does."""
        mean = ("grad_avg",) if values["centered"] else ()
        buffer = ("momentum_buffer",) if values["momentum"] != 0 else ()
        return ("square_avg", *mean, *buffer)

    @classmethod
    def flops(cls, used: frozenset[str]) -> dict[str, int]:
        """Count: v 4, the root 2, p 3; decay 2; the mean and its use 6; the buffer 2."""
        rmsprop = 9 + 2 * ("weight_decay" in used)
        return {
            "rmsprop": rmsprop,
            "rmsprop_momentum": rmsprop + 2,
            "rmsprop_centered": rmsprop + 6,
            "rmsprop_centered_momentum": rmsprop + 8,
        }


def rmsprop_step(
    p: Any,
    g: Any,
    square_avg: Any,
    grad_avg: Any = None,
    momentum_buffer: Any = None,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    """Take one RMSprop step on one array, in place: for callers that keep their own states.

    Parameters
    ----------
    p, g, square_avg : array_like
        Parameter, gradient (only read), and the running mean of its square, from zeros: one shape and dtype, float32 or
        float64, C-contiguous, no two sharing memory.
    grad_avg : array_like, optional
        Running mean of the gradient, from zeros: the centered form.
    momentum_buffer : array_like, optional
        From zeros; given where `momentum` is not 0, and only there.
    lr, alpha, eps, weight_decay, momentum, maximize
        As for `RMSprop`.
    grad_scale : float, optional
        Divide the gradient by this.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing was changed.

    References
    ----------
    .. [1] Tieleman and Hinton, "Lecture 6.5: RMSprop", Coursera, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import rmsprop_step
    >>> p, v = np.ones(2), np.zeros(2)
    >>> rmsprop_step(p, np.array([0.5, -3.0]), v, lr=0.01)
    >>> p.round(6).tolist()
    [0.9, 1.1]
    """
    if (momentum_buffer is None) != (momentum == 0):
        raise ValueError(f"momentum_buffer: expected an array exactly where momentum is not 0, it is {momentum!r}")
    given = {"p": p, "g": g, "square_avg": square_avg, "grad_avg": grad_avg, "momentum_buffer": momentum_buffer}
    arrays = {name: array for name, array in given.items() if array is not None or name in ("p", "g", "square_avg")}
    values = {
        "lr": lr,
        "alpha": alpha,
        "eps": eps,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "centered": grad_avg is not None,
        "maximize": maximize,
    }
    RMSprop._update(tuple(arrays), tuple(arrays.values()), 1, grad_scale, values)
