"""What would help: a rule for each thing that a call's record can tell."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fusedstep.profiler.bounds import BANDWIDTH, COMPUTE, OVERHEAD
from fusedstep.profiler.ceilings import Machine

if TYPE_CHECKING:
    from fusedstep.profiler.report import Line

MANY = 10  # calls from which a pattern is one
SMALL_SHARE = 0.005  # of the time: not worth a word
OUTSIDE = 0.3  # of the time, from which it is worth one
NUMPY = " losses and products in NumPy may have a fused form"
WORTH_THREADS = 100e-6  # seconds of a call on one thread that more threads could share


def given(lines: Sequence["Line"], seconds: float, outside: float, machine: Machine) -> Iterator[str]:
    """Yield what would help, first what concerns most of the time; each rule once."""
    found: list[tuple[float, str]] = []
    if seconds and outside / seconds > OUTSIDE:
        share = outside / seconds
        text = f"{share:.0%} of the time is in no fused call: prof.range() and prof.matmul() tell in what;{NUMPY}"
        found.append((share, text))
    on_cpu = [line for line in lines if line.ceiling]  # the others' ceilings are not known
    small = [line for line in on_cpu if _alone(line)]
    spent = sum(line.group.calls for line in small) * machine.calls["optimizer"]  # with what Python does around them
    if seconds and spent / seconds >= SMALL_SHARE:
        found.append((spent / seconds, one_list(small)))
    for rule in RULES:
        known = lines if rule in ANYWHERE else on_cpu
        told = [(line, advice) for line in known if line.share >= SMALL_SHARE and (advice := rule(line, machine))]
        if told:
            (first, text), *others = told
            titles = dict.fromkeys(line.group.work.title for line, _ in others)
            titles.pop(first.group.work.title, None)
            text += f"; likewise {', '.join(titles)}" if titles else ""
            found.append((sum(line.share for line, _ in told), text))
    for _, text in sorted(found, key=lambda item: -item[0]):
        yield text


def _alone(line: "Line") -> bool:
    """Whether these are many steps of one small tensor."""
    work = line.group.work
    one = work.kind == "optimizer" and work.sizes["tensors"] == 1
    return one and line.bounds.verdict == OVERHEAD and line.group.calls >= MANY


def one_list(lines: Sequence["Line"]) -> str:
    """Tell of small tensors, a call each."""
    sizes = sorted({line.group.work.sizes["elements"] for line in lines})
    calls = sum(line.group.calls for line in lines)
    elements = f"{sizes[0]:,}" + f" to {sizes[-1]:,}" * (len(sizes) > 1)
    return (
        f"{lines[0].group.work.title}: {calls:,} calls of {elements} elements: pass the parameters as one list to one "
        "optimizer, and their gradients in one step"
    )


def whole_sequence(line: "Line", _: Machine) -> str | None:
    """Look for steps of a cell in training, which a sequence could take at once."""
    work, calls = line.group.work, line.group.calls
    training = work.kind == "cell_backward" or (work.kind == "cell" and "tape" in work.options)
    if not training or calls < MANY:
        return None
    return (
        f"{work.title}: {calls:,} steps, a call each: rnn.{_module(line)} runs a sequence forward, and backward, in "
        "one call, with products over all its steps"
    )


def known_ahead(line: "Line", _: Machine) -> str | None:
    """Look for steps of a cell whose inputs may be known ahead."""
    work, calls = line.group.work, line.group.calls
    if work.kind != "cell" or "tape" in work.options or calls < MANY:
        return None
    return (
        f"{work.title}: {calls:,} steps, a call each: where the inputs are known ahead, rnn.{_module(line)} runs them "
        "in one call; where they are not, its stream() keeps the state"
    )


def _module(line: "Line") -> str:
    return "GRU" if "gru" in line.group.work.method else "LSTM"


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
    if not waits or work.itemsize != 4 or {"bfloat16", "int8"} & set(work.options):
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
    freeze,
    whole_sequence,
    known_ahead,
    lighter_weights,
    narrower,
    more_threads,
    far_from_ceiling,
)
ANYWHERE = (whole_sequence, known_ahead)
