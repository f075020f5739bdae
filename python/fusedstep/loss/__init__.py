"""Losses, value and gradient in one pass, for NumPy arrays."""

from fusedstep.loss.elementwise import (
    binary_cross_entropy_with_logits,
    focal,
    hinge,
    huber,
    kl_div,
    l1,
    mse,
    smooth_l1,
)
from fusedstep.loss.rows import cross_entropy, nll

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "focal",
    "hinge",
    "huber",
    "kl_div",
    "l1",
    "mse",
    "nll",
    "smooth_l1",
]
