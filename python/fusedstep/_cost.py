"""What a cost is, and the FLOPs of the core's functions."""

from typing import NamedTuple


class Cost(NamedTuple):
    """What a call moves and computes, by its mathematics.

    Attributes
    ----------
    bytes : int
        Read and written.
    flops : int
        Operations of arithmetic: + − × ÷ √ min max are one each, a fused multiply-add is two, a comparison of a
        custom loss is one.
    """

    bytes: int
    flops: int

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        """Add bytes to bytes and FLOPs to FLOPs."""
        return Cost(self.bytes + other.bytes, self.flops + other.flops)


# FLOPs of the functions of csrc/core/math.h on float32: every operation that they execute, but comparisons and choices.
EXP, EXP_OF_NEGATIVE, LOG, LOG1P, LOG1P_OF_POSITIVE = 25, 24, 25, 25, 25
TANH, SIGMOID, SOFTPLUS = 27, 26, 46
