"""PyTorch on the GPU: as on the CPU, with TF32 off."""

from collections.abc import Callable
from typing import Any

import torch

from bench.contenders import torch as cpu
from bench.contenders.cuda import Clock


class Contender(cpu.Contender):
    device = "cuda"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # it keeps 10 bits of 23
        torch.cuda.set_stream(torch.cuda.Stream())

    def describe(self) -> dict[str, Any]:
        return {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}

    def clock(self) -> Callable[[], float]:
        return Clock(lambda: torch.cuda.Event(enable_timing=True), lambda a, b: a.elapsed_time(b))
