"""How many blocks of a kernel a multiprocessor holds at once.

Limits: "CUDA C++ Programming Guide", Technical Specifications per Compute Capability; granularities: cuda_occupancy.h.
"""

from dataclasses import dataclass

from bench.machine_code import RESERVED

WARP = 32
REGISTERS = 65_536  # of a multiprocessor
PARTS = 4  # of a multiprocessor, each with its own registers
REGISTER_UNIT = 256  # registers that a warp gets at a time


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor holds: warps, blocks, bytes of shared memory; and the bytes that blocks get at a time."""

    warps: int
    blocks: int
    shared: int
    shared_unit: int = 128
    reserved: int = RESERVED  # of each block


LIMITS = {
    75: Limits(32, 16, 64 << 10, 256, 0),
    80: Limits(64, 32, 164 << 10),
    86: Limits(48, 16, 100 << 10),
    89: Limits(48, 24, 100 << 10),
    90: Limits(64, 32, 228 << 10),
    100: Limits(64, 32, 228 << 10),
    120: Limits(48, 24, 100 << 10),
}


def up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def resident_blocks(target: int, threads: int, registers: int, shared: int) -> int:
    """Return the blocks that fit at once: of so many threads, registers a thread and bytes of shared memory each."""
    limits = LIMITS[target]
    warps = -(-threads // WARP)
    of_part = REGISTERS // PARTS // up(max(registers, 1) * WARP, REGISTER_UNIT)
    by_registers = of_part * PARTS // warps
    memory = up(shared + limits.reserved, limits.shared_unit)
    by_memory = limits.shared // memory if memory else limits.blocks
    return min(limits.blocks, limits.warps // warps, by_registers, by_memory)


def occupancy(target: int, threads: int, registers: int, shared: int) -> float:
    """Return the resident warps' share of what a multiprocessor holds."""
    warps = -(-threads // WARP)
    return resident_blocks(target, threads, registers, shared) * warps / LIMITS[target].warps
