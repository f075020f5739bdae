"""The tables of docs/gpu.md, worked out without a GPU: `python -m bench.gpu_model` writes them anew.

Registers, shared memory and bytes an element come from the machine code (bench/machine_code.py), occupancy from these
by the limits of each architecture (bench/occupancy.py), and times from bytes and launches by the figures below. Nothing
here was measured.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import machine_code, rows
from bench.cases import OptimCase, SequenceCase
from bench.occupancy import LIMITS, occupancy

PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"
TARGETS = (80, 90, 100, 120)

COPY_RATE = 3.0e12  # bytes a second that a copy reaches on an H100 with HBM3, whose memory is rated at 3.35e12
LAUNCH = 2.5e-6  # seconds from one launch to the next: an assumption
FLOAT32_RATE = (
    60e12  # float32 operations a second of large products without tensor cores, rated at 67e12: an assumption
)
BARRIER = 1.5e-6  # seconds of a barrier over the grid: an assumption

MODELLED = 1 << 20  # elements, or units of rows, of a launch in the table of kernels
FORMATS = ("float32", "float64", "float16", "bfloat16")


# What a step takes of the device.


@dataclass(frozen=True)
class Cost:
    """Bytes to and from memory, kernels launched, float32 operations of matrix products, barriers over the grid."""

    bytes: int = 0
    launches: int = 0
    operations: int = 0
    barriers: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.bytes + other.bytes,
            self.launches + other.launches,
            self.operations + other.operations,
            self.barriers + other.barriers,
        )

    @property
    def seconds(self) -> float:
        """The sum of all: nothing overlaps, so that it is an upper estimate but for what the figures leave out."""
        return (
            self.bytes / COPY_RATE + self.launches * LAUNCH + self.operations / FLOAT32_RATE + self.barriers * BARRIER
        )


class Tables:
    """How many tensors a launch holds, from the bytes of the kernels' parameters."""

    def __init__(self, kernels: Iterable[machine_code.Ptx]) -> None:
        self._parameters = {kernel.name: kernel.parameters for kernel in kernels}

    def launches(self, kernel: str, tensors: int, pointers: int) -> int:
        """Of a kernel over a table of so many pointers, a length and two numbers a tensor (csrc/cuda/tensors.cuh)."""
        ((size, *_),) = [sizes for name, sizes in self._parameters.items() if name == kernel]
        room = (size - 8) // (8 * pointers + 16)
        return -(-tensors // room)

    def preparations(self, kernel: str, tensors: int) -> int:
        """Of a kernel over a count and numbers of 4 bytes."""
        ((size, *_),) = [sizes for name, sizes in self._parameters.items() if name == kernel]
        return -(-tensors // (size // 4 - 1))

    def ours(self, case: OptimCase) -> Cost:
        """Return the cost of a step in float32, as csrc/cuda/device.h has it."""
        tensors = len(case.shapes)
        rule = {"adam": "Adam", "adamw": "Adam", "rmsprop": "RMSprop", "adagrad": "Adagrad"}[case.method]
        launches = self.preparations(f"prepare_kernel<{rule}, float>", tensors)
        launches += self.launches(f"update_kernel<{rule}, 0, false>", tensors, 2 + case.states)
        if case.norm_pass:
            launches += self.launches("square_sums_kernel<float>", tensors, 2) + 1
        return Cost(case.work, launches)


# torch 2.13 built for CUDA 13: aten/src/ATen/native/cuda/MultiTensorApply.cuh. Elements of a chunk, chunks of a launch,
# and tensors of a launch by the number of lists that go along.
CHUNK, CHUNKS = 65_536, 2_240
LISTED = {1: 770, 2: 448, 3: 336, 4: 252, 5: 210}
# ForeachFunctors.cuh, ForeachReduceOp.cu: norms that a launch gathers. Shape.cu: tensors that a launch of `cat` takes.
NORMS, CAT = 3_200, 128


def multi_tensor(sizes: Sequence[int], lists: int) -> int:
    """Return the launches of torch's multi_tensor_apply: full where either chunks or tensors are."""
    launches = tensors = chunks = 0
    for n in sizes:
        tensors += 1
        parts = -(-n // CHUNK)
        for part in range(parts):
            chunks += 1
            last = part == parts - 1
            if chunks == CHUNKS or (tensors == LISTED[lists] and last):
                launches += 1
                chunks, tensors = 0, 0 if last else 1
    return launches + (chunks > 0)


def torch_fused(case: OptimCase) -> Cost:
    """Adam and AdamW, fused=True: _foreach_add_ counts, then one pass over p, g, m, v (fused_adam_utils.cuh)."""
    counting = multi_tensor([1] * len(case.sizes), 1)
    return Cost(28 * sum(case.sizes), counting + multi_tensor(case.sizes, 4))


def torch_clip(case: OptimCase) -> Cost:
    """clip_grad_norm_ (torch/nn/utils/clip_grad.py): _foreach_norm reads g, _foreach_mul_ reads and writes it.

    Between them: the norms gathered, stacked and summed, and the coefficient in four kernels of one element.
    """
    count, sizes = len(case.sizes), case.sizes
    norm = 1 + multi_tensor(sizes, 1) + -(-count // NORMS)  # one kernel clears the partial sums
    coefficient = -(-count // CAT) + 1 + 4  # stack; norm; add, reciprocal, multiply, clamp
    return Cost(12 * sum(sizes), norm + coefficient + multi_tensor(sizes, 1))


def torch_zero(case: OptimCase) -> Cost:
    """zero_grad(set_to_none=False): _foreach_zero_."""
    return Cost(4 * sum(case.sizes), multi_tensor(case.sizes, 1))


def torch_rmsprop(case: OptimCase) -> Cost:
    """RMSprop, foreach=True (torch/optim/rmsprop.py), a row an operation: bytes an element, and its lists."""
    passes = (
        (8, 1),  # _foreach_mul_(v, alpha)
        (12, 3),  # _foreach_addcmul_(v, g, g): g counted once
        (8, 2),  # _foreach_sqrt(v)
        (8, 1),  # _foreach_add_(avg, eps)
        (16, 3),  # _foreach_addcdiv_(p, g, avg)
    )
    counting = multi_tensor([1] * len(case.sizes), 1)
    each = [Cost(size * sum(case.sizes), multi_tensor(case.sizes, lists)) for size, lists in passes]
    return sum(each, Cost(launches=counting))


def torchs(case: OptimCase) -> Cost:
    """Return the cost of torch's step, by its fused kernel where there is one."""
    cost = torch_rmsprop(case) if case.method == "rmsprop" else torch_fused(case)
    if case.max_norm is not None:
        cost += torch_clip(case)
    if case.zero_grads:
        cost += torch_zero(case)
    return cost


STEPS = (
    OptimCase("adam", (), shapes=rows.MILLION),
    OptimCase("adam", (), shapes=rows.LARGE),
    OptimCase("adamw", (), shapes=((256,),) * 1000),
    OptimCase("adamw", (), shapes=rows.gpt2(), note=rows.GPT2_NOTE),
    OptimCase("adamw", (), shapes=rows.gpt2(), note=rows.GPT2_NOTE, max_norm=1.0),
    OptimCase("adamw", (), shapes=rows.gpt2(), note=rows.GPT2_NOTE, max_norm=1.0, zero_grads=True),
    OptimCase("rmsprop", (), shapes=rows.gpt2(), note=rows.GPT2_NOTE),
)


# Sequences.


def recurrent(case: SequenceCase, *, persistent: bool) -> Cost:
    """Return the cost of a module's forward call. What stays in the caches counts once.

    One product for all inputs; then either two kernels a step (cuBLAS, and the cell), or one for all of them with a
    barrier a step. Both begin with a kernel that sets the first state.
    """
    T, B, H, gates = case.steps, case.batch, case.size, case.gates
    rows_of = T * B
    weights = 2 * gates * H * H
    inputs = rows_of * (H + gates * H)  # x read, its products written
    steps = rows_of * (gates * H + H)  # these read, y written
    products = Cost(4 * (weights + inputs + steps), 2, case.work)  # the input's product, and the first state
    own = Cost(launches=2, barriers=T) if persistent else Cost(launches=2 * T)  # 2: its counters are cleared
    return products + own


LONG = SequenceCase("lstm", (), steps=50, batch=64, size=512, frozen=False)
ALONE = SequenceCase("lstm", (), steps=100, batch=1, size=512, frozen=False)
SEQUENCES = (
    (LONG, False),
    (replace(LONG, method="gru"), False),
    (ALONE, True),
    (ALONE, False),
    (replace(ALONE, method="gru"), True),
)


# The tables.


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lay out a table in Markdown: the first column to the left, the others to the right."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ruler, *lines))


def titled(name: str) -> str:
    """Name a kernel as a reader would: the numbers of storage formats by their names."""
    if match := re.fullmatch(r"update_kernel<(\w+), (\d), (true|false)>", name):
        rule, number, master = match.groups()
        return f"update, {rule}, {FORMATS[int(number)]}{', master copy' * (master == 'true')}"
    short = re.sub(r"_kernel\b", "", name).replace("<__half>", "<float16>").replace("<__nv_bfloat16>", "<bfloat16>")
    return f"`{short.replace(' >', '>')}`"


def bytes_an_element(kernel: machine_code.Kernel) -> tuple[str, int]:
    """Of an update without zeroing; of a norm; of a recurrent step's unit with every option, at most; 0 of others."""
    if kernel.name.startswith("update_kernel"):
        moved = kernel.traffic()
        return "", int(min(moved[frozenset({16})])) if moved else 0
    if match := re.fullmatch(r"square_sums_kernel<(\w+)>", kernel.name):
        return "", {"float": 4, "double": 8}.get(match[1], 2)  # each element is read once
    if re.match(r"(reset_|reset_backward_|(normed_)?forward_|(normed_)?backward_)kernel", kernel.name):
        return "≤ ", kernel.moved
    return "", 0


def shown(name: str) -> bool:
    """Whether a kernel has a row: not those that only the CPU's ceilings know."""
    return "<Touch" not in name


def kernel_table(path: Path) -> str:
    """Return the table of kernels: registers of a thread and occupancy on each target, and bytes an element."""
    bounds = {kernel.name: kernel.bounds for kernel in machine_code.ptx(path)}
    found = machine_code.kernels(path, TARGETS)
    by_name = {(kernel.name, kernel.target): kernel for kernel in found if shown(kernel.name)}
    lines = []
    for name in sorted({name for name, _ in by_name}, key=titled):
        line = [titled(name), str(bounds[name].threads)]
        for target in TARGETS:
            kernel = by_name[name, target]
            share = occupancy(target, bounds[name].threads, kernel.registers, kernel.shared)
            if name.startswith("sweep"):  # its shared memory leaves room for one block
                share = occupancy(target, bounds[name].threads, kernel.registers, LIMITS[target].shared // 2)
            line.append(f"{kernel.registers}, {share:.0%}")
        most, size = bytes_an_element(by_name[name, 90])
        model = time(Cost(size * MODELLED, launches=1))
        lines.append([*line, *((f"{most}{size}", f"{most}{model}") if size else ("", ""))])
    (compiler,) = {kernel.compiler for kernel in found}
    head = ["kernel", "threads", *(f"sm_{target}" for target in TARGETS), "bytes", "model"]
    return f"Compiled by nvcc {compiler}. Registers a thread, and occupancy.\n\n{table(head, lines)}"


def megabytes(cost: Cost) -> str:
    return f"{cost.bytes / 1e6:,.1f}"


def time(cost: Cost) -> str:
    return f"{cost.seconds * 1e6:,.0f} µs"


def step_table(path: Path) -> str:
    tables = Tables(machine_code.ptx(path))
    lines = []
    for case in STEPS:
        ours, theirs = tables.ours(case), torchs(case)
        each = [cell for cost in (ours, theirs) for cell in (megabytes(cost), str(cost.launches), time(cost))]
        lines.append([case.name, *each, f"{theirs.seconds / ours.seconds:.2f}×"])
    head = ["step", "MB", "launches", "model", "torch: MB", "launches", "model", "torch's over ours"]
    return table(head, lines)


def sequence_table() -> str:
    lines = []
    for case, persistent in SEQUENCES:
        cost = recurrent(case, persistent=persistent)
        name = f"{case.method.upper()}, T={case.steps} B={case.batch} I=H={case.size}"
        how = "one kernel for all steps" if persistent else "cuBLAS and a kernel a step"
        counted = (str(cost.launches), str(cost.barriers), f"{cost.operations / 1e9:,.2f}")
        lines.append([name, how, megabytes(cost), *counted, time(cost)])
    return table(["sequence", "how", "MB", "launches", "barriers", "GFLOP", "model"], lines)


def written(page: str, parts: dict[str, str]) -> str:
    """Return the page with each part between its marks, <!-- name --> and <!-- end -->."""
    for name, text in parts.items():
        page, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, t=text: f"{found[1]}\n{t}\n\n{found[2]}",
            page,
            flags=re.DOTALL,
        )
        assert count == 1, f"{PAGE.name} has {count} parts called {name}"
    return page


def tables(path: Path) -> dict[str, str]:
    """Return every part of the page that is made here, by name."""
    return {"kernels": kernel_table(path), "steps": step_table(path), "sequences": sequence_table()}


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m bench.gpu_model", description=__doc__).parse_args(argv)
    if missing := machine_code.missing():
        sys.exit(f"python -m bench.gpu_model: {missing}")
    path = machine_code.library()
    assert path
    if lacking := set(TARGETS) - machine_code.targets(path):
        sys.exit(f"python -m bench.gpu_model: this build has no machine code for {sorted(lacking)}")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), tables(path)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
