"""The losses of rows of classes: cross_entropy and nll."""

from typing import Any

import numpy as np

from fusedstep import _core
from fusedstep._array import Array, view
from fusedstep._cost import EXP_OF_NEGATIVE, LOG
from fusedstep.loss._base import NONE, gradient, number, real, reduction_of, result


def _axis(axis: Any, x: Array) -> int:
    if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}")
    if x.ndim == 0 or not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: expected an axis of input, shape {x.shape}, got {axis}")
    if x.shape[axis] == 0:
        raise ValueError(f"input: expected at least one class, got shape {x.shape}")
    return int(axis) % x.ndim


def _per(obj: Any, name: str, shape: tuple[int, ...], x: Array) -> Array | None:
    """Return weights of the shape that they must have, in the dtype of `x`."""
    if obj is None:
        return None
    array = view(obj, name)
    if array.dtype != x.dtype:
        raise TypeError(f"{name}: expected dtype {x.dtype}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array)


def _classes(target: Array, shape: tuple[int, ...]) -> Array:
    if target.dtype.kind not in "iu":
        raise TypeError(f"target: expected integer classes of shape {shape}, got dtype {target.dtype}")
    if target.shape != shape:
        raise ValueError(f"target: expected shape {shape}, got {target.shape}")
    return np.ascontiguousarray(target, dtype=np.int64)


def _run(
    softmax: bool,
    input: Any,  # noqa: A002
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    smoothing: float,
    sample_weight: Any,
    z_loss: float,
    axis: int,
    out: Any,
    grad: bool,
) -> Any:
    x = real(input, "input")
    chosen = reduction_of(reduction)
    at = _axis(axis, x)
    rows = x.shape[:at] + x.shape[at + 1 :]
    given = view(target, "target") if not isinstance(target, int | np.integer) else np.asarray(target)
    index = probabilities = None
    if softmax and given.dtype.kind == "f":
        if given.shape != x.shape:
            raise ValueError(f"target: expected probabilities of shape {x.shape}, got {given.shape}")
        probabilities = given
    else:
        index = _classes(given, rows)
    weights = _per(weight, "weight", (x.shape[at],), x), _per(sample_weight, "sample_weight", rows, x)
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int | np.integer):
        raise TypeError(f"ignore_index: expected an integer, got {type(ignore_index).__name__}")
    values = _core.empty(rows, x.dtype) if chosen == NONE else None
    to = gradient(x, out, grad)
    value = _core.loss_rows(
        softmax, x, at, index, int(ignore_index), probabilities, *weights, smoothing, z_loss, chosen, to, values
    )
    return result(values if chosen == NONE else value, out, to)


def cross_entropy(
    input: Any,  # noqa: A002
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    axis: int = -1,
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Cross entropy of softmax(input) against classes or probabilities, torch's function of the same name.

    Parameters
    ----------
    input : array_like
        Logits, (…, C), or with the classes on `axis`; float32 or float64, C-contiguous.
    target : array_like
        Classes: integers of the shape of `input` without its axis of classes. Or probabilities: the shape and dtype of
        `input`, C-contiguous.
    weight : array_like, optional
        Of the classes, (C,), in the dtype of `input`.
    ignore_index : int
        The class whose rows are left out: they add nothing, and their gradient is 0.
    reduction : {"mean", "sum", "none"}
        Of the value. A mean divides by the sum of ``sample_weight * weight[target]`` over the rows that are kept, for
        probabilities by the sum of `sample_weight`; without weights, by the number of rows. With "none" the gradient is
        that of the sum.
    label_smoothing : float
        ε in [0, 1]: each target becomes (1 − ε) of itself and ε/C of each class.
    sample_weight : array_like, optional
        Factor of each row's loss, in the shape of classes and the dtype of `input`. Rows of weight 0 are left out,
        whatever their logits are.
    z_loss : float
        Adds ``z_loss * log(sum(exp(row)))**2`` to each row's loss, which keeps logits near 0.
    axis : int
        Where the classes are. The last axis is fastest; torch's layout (N, C, d1, …) is ``axis=1``.
    out : array_like, optional
        Where the gradient is written; may be `input` itself. A new array otherwise.
    grad : bool
        False: the value alone is computed and returned.

    Returns
    -------
    value : float or ndarray
        With reduction "none" an array of the shape of classes and the dtype of `input`.
    grad : ndarray
        The gradient of the value in `input`; not returned with ``grad=False``.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit, or a class is out of range; the message names it. Nothing is written.

    Notes
    -----
    Each row is read once and its gradient written once; beyond the gradient there is no memory of the input's size. A
    mean over no rows is 0 with gradient 0 (torch: NaN). Losses of finite logits are finite.

    References
    ----------
    .. [1] Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    .. [2] Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, section 7 (label smoothing).
    .. [3] Chowdhery et al., "PaLM", JMLR 24, 2023, section 5 (z-loss).

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> value, grad = fusedstep.loss.cross_entropy(logits, np.array([0, 2]))
    >>> round(value, 4), grad.shape
    (0.6691, (2, 3))
    """
    smoothing = number(label_smoothing, "label_smoothing", 0.0, 1.0)
    z = number(z_loss, "z_loss", 0.0, float("inf"))
    return _run(True, input, target, weight, ignore_index, reduction, smoothing, sample_weight, z, axis, out, grad)


def nll(
    input: Any,  # noqa: A002
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    sample_weight: Any = None,
    axis: int = -1,
    out: Any = None,
    grad: bool = True,
) -> Any:
    """Negative log-likelihood of classes, −weight[y]·input[y], torch's ``nll_loss``.

    Parameters
    ----------
    input : array_like
        Log-probabilities, (…, C), or with the classes on `axis`; float32 or float64, C-contiguous.
    target, weight, ignore_index, reduction, sample_weight, axis, out, grad : optional
        As in `cross_entropy`; `target` holds classes.

    Returns
    -------
    value : float or ndarray
        With reduction "none" an array of the shape of `target` and the dtype of `input`.
    grad : ndarray
        The gradient of the value in `input`: 0 but at the targets. Not returned with ``grad=False``.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit, or a class is out of range; the message names it. Nothing is written.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> value, grad = fusedstep.loss.nll(np.log([[0.5, 0.25, 0.25]]), np.array([1]))
    >>> round(value, 4), grad
    (1.3863, array([[ 0., -1.,  0.]]))
    """
    return _run(False, input, target, weight, ignore_index, reduction, 0.0, sample_weight, 0.0, axis, out, grad)


def row_flops(C: int, *, dense: bool, z_loss: bool, grad: bool) -> int:
    """Count the operations of `cross_entropy` on a row of C classes.

    A class: its distance from the maximum, the exponential, the sum, the gradient. Where every class has a mass
    (`dense`: probabilities, or smoothing) that takes 3, its share in the loss 3, and its part of the gradient 2. A row:
    the logarithm, lse and the loss; and z·lse² 3, in the gradient 3.
    """
    of_class = 1 + EXP_OF_NEGATIVE + 1 + grad + dense * (6 + 2 * grad)
    return C * of_class + LOG + 3 + z_loss * (3 + 3 * grad)
