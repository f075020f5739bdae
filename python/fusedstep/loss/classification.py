"""The losses of logits and probabilities, each element by itself: binary cross entropy, focal, kl_div, hinge."""

from typing import Any

from fusedstep._cost import EXP, LOG, SOFTPLUS
from fusedstep.loss._base import BATCH_MEAN, INFINITY, REDUCTIONS, elementwise, number, reduction_of
from fusedstep.loss._cost import FLOPS


def binary_cross_entropy_with_logits(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Cross entropy of σ(x) against probabilities, torch's function of the same name.

    Parameters
    ----------
    input : array_like
        Any shape; float32 or float64, C-contiguous.
    target : array_like or float
        Probabilities, broadcast to `input`; its dtype, int32, int64, uint8 or bool.
    pos_weight : array_like, optional
        Factor of the positive term, broadcast to `input`.
    weight : array_like, optional
        Factor of each element's loss, broadcast to `input`. A mean divides by the number of elements, whatever the
        weights.
    reduction : {"mean", "sum", "none"}
        Of the value. The gradient is that of the mean or of the sum; with "none", of the sum.
    out : array_like, optional
        Where the gradient is written; may be `input` itself. A new array otherwise.
    grad : bool
        False: the value alone is computed and returned.

    Returns
    -------
    value : float or ndarray
        With reduction "none" an array of the shape and dtype of `input`.
    grad : ndarray
        The gradient of the value in `input`; not returned with ``grad=False``.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing is written.

    Notes
    -----
    (1 − t)·softplus(x) + pos_weight·t·softplus(−x): finite for every finite logit.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> value, grad = fusedstep.loss.binary_cross_entropy_with_logits(x, np.array([1, 0, 1]))
    >>> round(value, 4), grad.round(4)
    (0.3048, array([-0.1258,  0.0896, -0.0397]))
    """
    positive = 1.0 if pos_weight is None else pos_weight
    chosen = reduction_of(reduction)
    return elementwise("binary_cross_entropy_with_logits", (), input, target, weight, chosen, out, grad, positive)


# softplus and σ of x and −x; then 1 − t, w·t, and two products and a sum each for value and gradient.
LOGIT_FLOPS = SOFTPLUS + 4
FLOPS["binary_cross_entropy_with_logits"] = lambda _: LOGIT_FLOPS + 8


def focal(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Focal loss of logits, α_t·(1 − p_t)^γ times their binary cross entropy, torchvision's ``sigmoid_focal_loss``.

    Parameters
    ----------
    input : array_like
        Any shape; float32 or float64, C-contiguous.
    target : array_like or float
        Probabilities, broadcast to `input`; its dtype, int32, int64, uint8 or bool.
    alpha : float, optional
        Factor of the positive class; that of the negative one is 1 − α. None: both are 1.
    gamma : float
        How much less what is classified well counts.
    weight : array_like, optional
        Factor of each element's loss, broadcast to `input`. A mean divides by the number of elements, whatever the
        weights.
    reduction : {"mean", "sum", "none"}
        Of the value. The gradient is that of the mean or of the sum; with "none", of the sum.
    out : array_like, optional
        Where the gradient is written; may be `input` itself. A new array otherwise.
    grad : bool
        False: the value alone is computed and returned.

    Returns
    -------
    value : float or ndarray
        With reduction "none" an array of the shape and dtype of `input`.
    grad : ndarray
        The gradient of the value in `input`; not returned with ``grad=False``.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing is written.

    Notes
    -----
    torchvision's default reduction is "none", and its α = −1 is None here.

    References
    ----------
    .. [1] Lin, Goyal, Girshick, He and Dollár, "Focal loss for dense object detection", ICCV 2017, eq. 5.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> value, grad = fusedstep.loss.focal(x, np.array([1, 0, 1]))
    >>> round(value, 4), grad.round(4)
    (0.0114, array([-0.0115,  0.0131, -0.0004]))
    """
    a = None if alpha is None else number(alpha, "alpha", 0.0, 1.0)
    hyper = (1.0 if a is None else 1.0 - a, 1.0 if a is None else a, number(gamma, "gamma", 0.0, INFINITY))
    return elementwise("focal", hyper, input, target, weight, reduction_of(reduction), out, grad)


# 1 − t 1, q 3, b 3, b′ 3, q′/q 4, a 3, the factor 1, value 1, gradient 4; q^γ where γ is not 0.
FLOPS["focal"] = lambda used: LOGIT_FLOPS + 23 + ("gamma" in used) * (EXP + LOG + 1)


def kl_div(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    log_target: bool = False,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Kullback-Leibler divergence of log-probabilities from probabilities, t·(log t − x), torch's ``kl_div``.

    Parameters
    ----------
    input : array_like
        Log-probabilities, any shape; float32 or float64, C-contiguous.
    target : array_like or float
        Probabilities, broadcast to `input`; its dtype, int32, int64, uint8 or bool.
    log_target : bool
        Whether `target` holds logarithms of probabilities.
    weight : array_like, optional
        Factor of each element's loss, broadcast to `input`. A mean divides by the number of elements, whatever the
        weights.
    reduction : {"mean", "sum", "batchmean", "none"}
        Of the value; "batchmean" divides the sum by the length of the first dimension. The gradient is that of the
        value; with "none", of the sum.
    out : array_like, optional
        Where the gradient is written; may be `input` itself. A new array otherwise.
    grad : bool
        False: the value alone is computed and returned.

    Returns
    -------
    value : float or ndarray
        With reduction "none" an array of the shape and dtype of `input`.
    grad : ndarray
        The gradient of the value in `input`; not returned with ``grad=False``.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing is written.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> target = np.array([0.25, 0.5, 0.25])
    >>> value, grad = fusedstep.loss.kl_div(np.log([0.5, 0.25, 0.25]), target, reduction="sum")
    >>> round(value, 4), grad.round(4)
    (0.1733, array([-0.25, -0.5 , -0.25]))
    """
    chosen = reduction_of(reduction, REDUCTIONS | {"batchmean": BATCH_MEAN})
    return elementwise("kl_div", (float(bool(log_target)),), input, target, weight, chosen, out, grad)


FLOPS["kl_div"] = lambda used: 2 + (EXP if "log_target" in used else LOG)


def hinge(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    margin: float = 1.0,
    squared: bool = False,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Hinge loss of scores, max(0, margin − t·x), for targets −1 and 1.

    Parameters
    ----------
    input : array_like
        Any shape; float32 or float64, C-contiguous.
    target : array_like or float
        −1 or 1, broadcast to `input`; its dtype, int32 or int64.
    margin : float
        The t·x from which the loss is 0.
    squared : bool
        Square it.
    weight : array_like, optional
        Factor of each element's loss, broadcast to `input`. A mean divides by the number of elements, whatever the
        weights.
    reduction : {"mean", "sum", "none"}
        Of the value. The gradient is that of the mean or of the sum; with "none", of the sum.
    out : array_like, optional
        Where the gradient is written; may be `input` itself. A new array otherwise.
    grad : bool
        False: the value alone is computed and returned.

    Returns
    -------
    value : float or ndarray
        With reduction "none" an array of the shape and dtype of `input`.
    grad : ndarray
        The gradient of the value in `input`; not returned with ``grad=False``.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; the message names it. Nothing is written.

    Notes
    -----
    torch has no such function: its ``hinge_embedding_loss`` is x for positive targets.

    References
    ----------
    .. [1] Cortes and Vapnik, "Support-vector networks", Machine Learning 20, 1995.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> value, grad = fusedstep.loss.hinge(x, np.array([1, -1, 1]))
    >>> round(value, 4), grad.round(4)
    (0.1667, array([-0.3333,  0.    ,  0.    ]))
    """
    hyper = (number(margin, "margin", 0.0, INFINITY), float(bool(squared)))
    return elementwise("hinge", hyper, input, target, weight, reduction_of(reduction), out, grad)


FLOPS["hinge"] = lambda used: 5 if "squared" in used else 2
