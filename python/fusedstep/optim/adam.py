"""Adam and AdamW: classes, functional forms and the reference."""

import math
from typing import Any

import numpy as np

from fusedstep._array import Array
from fusedstep.optim._base import Optimizer, Values
from fusedstep.optim._hyper import Hyper, betas, flag, nonnegative


def _power(beta: float, step: int) -> float:
    """``beta**step``, rounded correctly: Python's power is the C library's, wrong by an ULP now and then."""
    import decimal  # noqa: PLC0415  # 1 ms, for the reference alone

    return float(decimal.Context(prec=50).power(decimal.Decimal(beta), step))


def adam_reference(
    p: Array,
    g: Array,
    states: tuple[Array, ...],
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled: bool = False,
    multiplier: float = 1.0,
) -> None:
    """Adam in NumPy, in place and in the operation order of the compiled rule: equal to it bit for bit.

    Parameters
    ----------
    p, g : ndarray
        Parameter and gradient, float32 or float64.
    states : tuple of ndarray
        ``exp_avg``, ``exp_avg_sq`` and, with `amsgrad`, ``max_exp_avg_sq``.
    step : int
        Count of this step, from 1.
    multiplier : float
        What the gradient is multiplied by first: the clip factor over the gradient scale.
    """
    T = p.dtype.type
    beta1, beta2 = betas
    m, v = states[:2]
    g = g * T(-multiplier if maximize else multiplier)
    p *= T(1 - lr * weight_decay if decoupled else 1)
    if T(weight_decay) != 0 and not decoupled:
        g = g + T(weight_decay) * p
    d = g - m
    m[...] = m + T(1 - beta1) * d if T(1 - beta1) < T(0.5) else g - T(beta1) * d
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    if amsgrad:
        v = states[2]
        np.maximum(v, states[1], out=v)
    inv_sqrt_bc2 = T(1 / math.sqrt(1 - _power(beta2, step)))
    p -= T(lr / (1 - _power(beta1, step))) * m / (np.sqrt(v) * inv_sqrt_bc2 + T(eps))
    assert all(a.dtype == p.dtype for a in (g, m, v, d))


class Adam(Optimizer):
    """Adam, with coupled weight decay (an L2 penalty), over any number of arrays at once.

    ``p -= lr/bc1 * m / (sqrt(v)/sqrt(bc2) + eps)`` with ``bc = 1 - beta**t``, as torch.optim.Adam.

    Parameters
    ----------
    params : array_like, sequence of array_like, dict or sequence of dict
        One array, a list, a dict of names, or parameter groups: dicts with ``"params"`` and own hyperparameters. Arrays
        are float32 or float64, C-contiguous and writeable, and are updated in place; CPU tensors of other
        libraries work without a copy.
    lr : float, optional
        Learning rate.
    betas : tuple of float, optional
        Decay of the running means of the gradient and of its square, each in [0, 1).
    eps : float, optional
        Added to the root.
    weight_decay : float, optional
        Added to the gradient: ``g + weight_decay * p``.
    amsgrad : bool, optional
        Use the largest ``v`` so far. Cannot change after construction.
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
    States (torch's names): ``exp_avg``, ``exp_avg_sq``, with `amsgrad` ``max_exp_avg_sq``. A step equals
    `adam_reference` bit for bit, on every instruction set and with any number of threads. It reads four values an
    element and writes three.

    References
    ----------
    .. [1] Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, Algorithm 1.
    .. [2] Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import Adam
    >>> w = np.array([1.0, -2.0], dtype=np.float32)
    >>> opt = Adam(w, lr=0.1)
    >>> for _ in range(100):
    ...     info = opt.step(2 * w)
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    __slots__ = ()

    lr = Hyper(nonnegative)
    betas = Hyper(betas)
    eps = Hyper(nonnegative)
    weight_decay = Hyper(nonnegative)
    amsgrad = Hyper(flag, structural=True)
    maximize = Hyper(flag)

    _decoupled = False
    reference = staticmethod(adam_reference)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        master: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "master": master,
            },
        )

    @classmethod
    def rule(cls, values: Values) -> tuple[str, list[float]]:
        """Name the compiled rule and list its hyperparameters."""
        hyper = [values["lr"], *values["betas"], values["eps"], values["weight_decay"], float(cls._decoupled)]
        return "amsgrad" if values["amsgrad"] else "adam", hyper

    @classmethod
    def state_names(cls, values: Values) -> tuple[str, ...]:
        """Name the states as torch does."""
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if values["amsgrad"] else 2]

    @classmethod
    def flops(cls, used: frozenset[str]) -> dict[str, int]:
        """Count: p·keep 1, m 3, v 4, p 6; coupled decay 2; AMSGrad's largest v 1."""
        adam = 14 + 2 * ("weight_decay" in used and "decoupled" not in used)
        return {"adam": adam, "amsgrad": adam + 1}


def adamw_reference(
    p: Array, g: Array, states: tuple[Array, ...], *, weight_decay: float = 1e-2, **options: Any
) -> None:
    """AdamW in NumPy: `adam_reference` with decoupled decay, ``p * (1 - lr * weight_decay)`` before the update."""
    adam_reference(p, g, states, weight_decay=weight_decay, decoupled=True, **options)


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p * (1 - lr * weight_decay)`` before the update, as torch.optim.AdamW.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad, maximize, master
        As for `Adam`.
    weight_decay : float, optional
        Decay, multiplied by `lr`.

    References
    ----------
    .. [1] Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import AdamW
    >>> params = {"w": np.ones((2, 3)), "b": np.zeros(2)}
    >>> opt = AdamW(params, lr=1e-2)
    >>> info = opt.step({"w": np.ones((2, 3)), "b": np.ones(2)}, max_norm=1.0)
    >>> round(info.norm, 3), info.applied
    (2.828, True)
    """

    __slots__ = ()

    _decoupled = True
    reference = staticmethod(adamw_reference)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        master: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, master=master)


def _step(cls: type[Adam], arrays: tuple[Any, ...], step: int, grad_scale: float, values: Values) -> None:
    *rest, max_v = arrays
    names = ("p", "g", "m", "v", "max_v")[: 4 if max_v is None else 5]
    cls._update(names, rest if max_v is None else arrays, step, grad_scale, {**values, "amsgrad": max_v is not None})


def adam_step(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    max_v: Any = None,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    """Take one Adam step on one array, in place: for callers that keep their own states.

    Parameters
    ----------
    p, g, m, v : array_like
        Parameter, gradient (only read), and the running means of the gradient and of its square, from zeros: one shape
        and dtype, float32 or float64, C-contiguous, no two sharing memory.
    max_v : array_like, optional
        The largest `v` so far: AMSGrad.
    step : int
        Count of this step, from 1.
    lr, betas, eps, weight_decay, maximize
        As for `Adam`.
    grad_scale : float, optional
        Divide the gradient by this.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing was changed.

    References
    ----------
    .. [1] Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import adam_step
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adam_step(p, np.array([0.5, -3.0]), m, v, step=1, lr=0.1)
    >>> p.round(6).tolist()
    [0.9, 1.1]
    """
    values = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
    _step(Adam, (p, g, m, v, max_v), step, grad_scale, values)


def adamw_step(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    max_v: Any = None,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    """Take one AdamW step on one array, in place: `adam_step` with decoupled weight decay.

    Parameters
    ----------
    p, g, m, v, max_v, step, grad_scale
        As for `adam_step`.
    lr, betas, eps, weight_decay, maximize
        As for `AdamW`.

    References
    ----------
    .. [1] Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import adamw_step
    >>> p, m, v = np.ones(1), np.zeros(1), np.zeros(1)
    >>> adamw_step(p, np.array([2.0]), m, v, step=1, lr=0.1, weight_decay=0.5)
    >>> p.round(6).tolist()
    [0.85]
    """
    values = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
    _step(AdamW, (p, g, m, v, max_v), step, grad_scale, values)
