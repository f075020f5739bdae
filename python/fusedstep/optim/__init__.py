"""Fused optimizers over NumPy arrays, and schedulers of their hyperparameters."""

from fusedstep._core import StepInfo
from fusedstep.optim._base import Group, Optimizer
from fusedstep.optim.adagrad import Adagrad, adagrad_step
from fusedstep.optim.adam import Adam, AdamW, adam_step, adamw_step
from fusedstep.optim.rmsprop import RMSprop, rmsprop_step
from fusedstep.optim.schedulers import CosineWarmupLR, OneCycleLR, ReduceLROnPlateau, StepLR

# The methods: what tests and benchmarks iterate.
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad}

__all__ = [
    "OPTIMIZERS",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineWarmupLR",
    "Group",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "StepInfo",
    "StepLR",
    "adagrad_step",
    "adam_step",
    "adamw_step",
    "rmsprop_step",
]
