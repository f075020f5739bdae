"""The losses of numbers, each element by itself: mse, l1, smooth_l1, huber."""

from typing import Any

from fusedstep.loss._base import INFINITY, MEAN, WEIGHTED_MEAN, elementwise, number, reduction_of
from fusedstep.loss._cost import FLOPS


def _weighted(reduction: str, weight: Any) -> int:
    """Return the reduction whose mean divides by the sum of the weights, where there are any."""
    chosen = reduction_of(reduction)
    return WEIGHTED_MEAN if chosen == MEAN and weight is not None else chosen


def mse(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Squared error, (x − t)², torch's ``mse_loss``.

    Parameters
    ----------
    input : array_like
        Any shape; float32 or float64, C-contiguous.
    target : array_like or float
        Broadcast to `input`; its dtype, int32, int64, uint8 or bool.
    weight : array_like, optional
        Factor of each element's loss, broadcast to `input`. A mean divides by their sum.
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

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> value, grad = fusedstep.loss.mse(x, 0.0)
    >>> round(value, 4), grad.round(4)
    (1.75, array([ 0.3333, -0.6667,  1.3333]))
    """
    return elementwise("mse", (), input, target, weight, _weighted(reduction, weight), out, grad)


FLOPS["mse"] = lambda _: 3  # x − t, its square, its double


def l1(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Absolute error, |x − t|, torch's ``l1_loss``; its gradient is 0 where x = t.

    Parameters
    ----------
    input : array_like
        Any shape; float32 or float64, C-contiguous.
    target : array_like or float
        Broadcast to `input`; its dtype, int32, int64, uint8 or bool.
    weight : array_like, optional
        Factor of each element's loss, broadcast to `input`. A mean divides by their sum.
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

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> value, grad = fusedstep.loss.l1(x, 0.0)
    >>> round(value, 4), grad.round(4)
    (1.1667, array([ 0.3333, -0.3333,  0.3333]))
    """
    return elementwise("l1", (), input, target, weight, _weighted(reduction, weight), out, grad)


FLOPS["l1"] = lambda _: 1


def smooth_l1(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    beta: float = 1.0,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Squared error over 2β below β, absolute error less β/2 beyond, torch's ``smooth_l1_loss``.

    Parameters
    ----------
    input : array_like
        Any shape; float32 or float64, C-contiguous.
    target : array_like or float
        Broadcast to `input`; its dtype, int32, int64, uint8 or bool.
    beta : float
        Where the pieces meet; 0 for the absolute error.
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

    References
    ----------
    .. [1] Girshick, "Fast R-CNN", ICCV 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> value, grad = fusedstep.loss.smooth_l1(x, 0.0)
    >>> round(value, 4), grad.round(4)
    (0.7083, array([ 0.1667, -0.3333,  0.3333]))
    """
    hyper = (number(beta, "beta", 0.0, INFINITY),)
    return elementwise("smooth_l1", hyper, input, target, weight, reduction_of(reduction), out, grad)


FLOPS["smooth_l1"] = lambda used: 6 if "beta" in used else 1


def huber(
    input: Any,  # noqa: A002
    target: Any,
    *,
    weight: Any = None,
    delta: float = 1.0,
    reduction: str = "mean",
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Half the squared error below δ, δ times (absolute error less δ/2) beyond, torch's ``huber_loss``.

    Parameters
    ----------
    input : array_like
        Any shape; float32 or float64, C-contiguous.
    target : array_like or float
        Broadcast to `input`; its dtype, int32, int64, uint8 or bool.
    delta : float
        Where the pieces meet.
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

    References
    ----------
    .. [1] Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35(1), 1964.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> value, grad = fusedstep.loss.huber(x, 0.0)
    >>> round(value, 4), grad.round(4)
    (0.7083, array([ 0.1667, -0.3333,  0.3333]))
    """
    hyper = (number(delta, "delta", 0.0, INFINITY, above=True),)
    return elementwise("huber", hyper, input, target, weight, reduction_of(reduction), out, grad)


FLOPS["huber"] = lambda _: 4
