"""What would help: a rule for each thing that a call's record can tell."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fusedstep.profiler.bounds import BANDWIDTH, COMPUTE, OVERHEAD
from fusedstep.profiler.ceilings import Machine

if TYPE_CHECKING:
    from fusedstep.profiler.report import Line

MANY = 10  # calls from which a pattern is one
SMALL_SHARE = 0.01  # of the time: not worth a word
OUTSIDE = 0.3  # of the time, from which it is worth one
WORTH_THREADS = 20e-6  # seconds of a call on one thread that more threads could share


def given(lines: Sequence["Line"], seconds: float, outside: float, machine: Machine) -> Iterator[str]:
    """Yield what would help, of the calls that take longest first."""
    if seconds and outside / seconds > OUTSIDE:
        yield (
            f"{outside / seconds:.0%} of the time is in no fused call: prof.range() and prof.matmul() tell in what, "
            "and losses and products in NumPy may have a fused form"
        )
    said: set[str] = set()
    for line in lines:
        if line.share < SMALL_SHARE:
            continue
        for rule in RULES:
            text = rule(line, machine)
            if text and text not in said:
                said.add(text)
                yield text


def one_list(line: "Line", _: Machine) -> str | None:
    """Look for small tensors, a call each."""
    work, calls = line.group.work, line.group.calls
    if work.kind != "optimizer" or work.sizes["tensors"] != 1 or line.bounds.verdict != OVERHEAD or calls < MANY:
        return None
    return (
        f"{work.title}: {calls:,} calls of {work.sizes['elements']:,} elements: pass the parameters as one list to one "
        "optimizer, and their gradients in one step"
    )


def whole_sequence(line: "Line", _: Machine) -> str | None:
    """Look for steps of a cell that a sequence could take at once."""
    work, calls = line.group.work, line.group.calls
    if work.kind not in ("cell", "cell_backward") or calls < MANY:
        return None
    module = "GRU" if "gru" in work.method else "LSTM"
    if work.kind == "cell_backward" or "tape" in work.options:
        return (
            f"{work.title}: {calls:,} steps, a call each: rnn.{module} runs a sequence forward, and backward, in one "
            "call, with products over all its steps"
        )
    return (
        f"{work.title}: {calls:,} steps, a call each: where the inputs are known ahead, rnn.{module} runs them in one "
        "call; where they are not, its stream() keeps the state"
    )


def freeze(line: "Line", _: Machine) -> str | None:
    """Look for weights that are packed again for every call."""
    work, calls = line.group.work, line.group.calls
    if work.kind not in ("cell", "sequence") or {"tape", "frozen"} & set(work.options) or calls < MANY:
        return None
    return f"{work.title}: its weights are packed in each of {calls:,} calls: freeze() packs them once"


def lighter_weights(line: "Line", _: Machine) -> str | None:
    """Look for steps that wait for their weights."""
    work = line.group.work
    waits = line.bounds.verdict == BANDWIDTH and 2 * work.weights_moved > work.cost.bytes
    if not waits or work.itemsize != 4 or "bfloat16" in work.title or "int8" in work.title:
        return None
    rows = f"{work.sizes['B']} row{'s' * (work.sizes['B'] != 1)}"
    if work.kind == "stream" or "frozen" in work.options:
        return (
            f"{work.title}: a step of {rows} waits for its weights: more rows share them, and as bfloat16 or int8 "
            "(freeze, stream) they are half or a quarter of the bytes"
        )
    return f"{work.title}: a step of {rows} waits for its weights, which more rows at once would share"


def narrower(line: "Line", _: Machine) -> str | None:
    """Look for bytes that need not be."""
    work = line.group.work
    if work.itemsize == 4 or work.kind == "matmul" or line.bounds.verdict == OVERHEAD:
        return None
    return f"{work.title}: float64 moves twice the bytes of float32 and computes at half its rate"


def more_threads(line: "Line", machine: Machine) -> str | None:
    """Look for threads that were not there."""
    work = line.group.work
    idle = work.kind not in ("matmul", "stream") and work.threads < machine.threads
    if not idle or line.bounds.verdict == OVERHEAD or line.bounds.seconds < WORTH_THREADS:
        return None
    return (
        f"{work.title}: ran on {work.threads} of {machine.threads} threads: another Python thread had the pool, or "
        "set_num_threads limits it"
    )


def far_from_ceiling(line: "Line", _: Machine) -> str | None:
    """Look for time that neither bytes, FLOPs nor the fixed cost explain."""
    work, bounds = line.group.work, line.bounds
    spread = line.group.fastest < 0.5 * line.mean and line.group.calls >= MANY
    if work.kind == "matmul" or bounds.verdict == OVERHEAD or not spread:
        return None
    at_best = bounds.seconds / line.group.fastest if line.group.fastest else 0.0
    what = "FLOPs" if bounds.verdict == COMPUTE else "bytes"
    return (
        f"{work.title}: its fastest call reached {at_best:.0%} of the ceiling for {what}, the mean "
        f"{line.of_ceiling:.0%}: the machine was busy, or the arrays were in no cache after what ran between"
    )


RULES: tuple[Callable[["Line", Machine], str | None], ...] = (
    one_list,
    whole_sequence,
    freeze,
    lighter_weights,
    narrower,
    more_threads,
    far_from_ceiling,
)
