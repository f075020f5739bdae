"""Losses, value and gradient in one pass, for NumPy arrays."""

from fusedstep.loss import math
from fusedstep.loss._check import Check
from fusedstep.loss.classification import binary_cross_entropy_with_logits, focal, hinge, kl_div
from fusedstep.loss.custom import Custom, custom
from fusedstep.loss.regression import huber, l1, mse, smooth_l1
from fusedstep.loss.rows import cross_entropy, nll

__all__ = [
    "Check",
    "Custom",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "custom",
    "focal",
    "hinge",
    "huber",
    "kl_div",
    "l1",
    "math",
    "mse",
    "nll",
    "smooth_l1",
]
