"""What the compiler made of the CUDA kernels: registers, shared memory, launch bounds and instructions.

They are read out of a library that carries machine code (fusedstep's module `_cuda`, or a cubin) by cuobjdump and
nvdisasm, which come from PyPI (nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm) and need neither the toolkit nor a GPU.
"""

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from itertools import chain
from pathlib import Path

import fusedstep

from bench.control_flow import INSTRUCTION, Code, Instruction

LIBRARY = "fusedstep._cuda"
PACKAGES = {"cuobjdump": "nvidia-cuda-cuobjdump", "nvdisasm": "nvidia-cuda-nvdisasm"}
KEPT = Path(__file__).parent.parent / "build" / "machine_code"
RESERVED = 1024  # bytes of shared memory that a block of compute capability 8.0 and up has for the system


def tool(name: str) -> Path | None:
    """Return where a tool is: that of PyPI, or of a toolkit on the PATH."""
    try:
        files = metadata.files(PACKAGES[name]) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == name]
    on_path = shutil.which(name)
    return found[0] if found else Path(on_path) if on_path else None


def library() -> Path | None:
    """Return fusedstep's library of kernels, without importing it; None where this build has none."""
    # Not importlib's find_spec: tests may have put another module of that name in its place.
    found = (finder.find_spec(LIBRARY, fusedstep.__path__) for finder in sys.meta_path)
    spec = next((spec for spec in found if spec), None)
    return Path(str(spec.origin)) if spec else None


def missing_tools() -> str | None:
    """Return which of the tools are not here, in words; None where none is."""
    lacking = [PACKAGES[name] for name in PACKAGES if not tool(name)]
    return f"{' and '.join(lacking)} of PyPI are not installed" if lacking else None


def missing() -> str | None:
    """Return what reading the module's machine code lacks here, in words; None where nothing is missing."""
    return missing_tools() if library() else "this build of fusedstep has no CUDA kernels (FUSEDSTEP_CUDA)"


def run(name: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    path = tool(name)
    assert path, "missing() says why"
    return subprocess.run([path, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Kernel:
    """A kernel as it was compiled for one target."""

    name: str  # demangled, without what every kernel has in common
    target: int  # 90 for sm_90
    registers: int  # of a thread
    stack: int  # bytes of a thread, in local memory: spilled registers, and arrays that are indexed at run time
    local: int
    shared: int  # bytes of a block that are known at compile time
    compiler: str  # version of ptxas
    options: str  # of ptxas
    opcodes: dict[str, int]  # how often, subroutines left out
    moved: int  # bytes of all loads and stores of global memory
    loops: list[tuple[list[int], list[float]]]  # of the innermost ones that take roots: see traffic()

    def count(self, *kinds: str) -> int:
        """Return how many instructions of these kinds the kernel has, subroutines left out."""
        return sum(count for opcode, count in self.opcodes.items() if opcode.partition(".")[0] in kinds)

    def traffic(self) -> dict[frozenset[int], set[float]]:
        """Return the bytes an element that its innermost loops move, by the widths of their accesses.

        An element is what has one square root, of an optimizer's kernel. Accesses under a predicate may be left out:
        there are two figures then.
        """
        found: dict[frozenset[int], set[float]] = {}
        for widths, moved in self.loops:
            found.setdefault(frozenset(widths), set()).update(moved)
        return found


def moves(instructions: Iterable[Instruction]) -> list[Instruction]:
    """Return the loads and stores of global memory."""
    return [i for i in instructions if i.kind in {"LDG", "STG"}]


def per_root(loop: Sequence[Instruction]) -> tuple[list[int], list[float]] | None:
    """Return the widths of a loop's accesses, and the bytes a root, with and without what a predicate may leave out."""
    roots = sum(i.opcode.startswith("MUFU.RSQ") for i in loop)
    if not roots:
        return None
    certain = [i for i in moves(loop) if not i.predicate]
    both = {sum(i.width for i in chosen) / roots for chosen in (moves(loop), certain)}
    return sorted({i.width for i in moves(loop)}), sorted(both)


@dataclass(frozen=True)
class Bounds:
    """What __launch_bounds__ states: threads of a block, and blocks that fit on a multiprocessor at once."""

    threads: int
    blocks: int


@dataclass(frozen=True)
class Ptx:
    """A kernel in PTX, which the module carries for the last target."""

    name: str
    bounds: Bounds
    parameters: tuple[int, ...]  # bytes of those that are structures
    opcodes: Counter[str]


def targets(path: Path) -> set[int]:
    """Return the targets that a library has machine code for."""
    return {int(target) for target in re.findall(r"\.sm_(\d+)\.cubin", run("cuobjdump", "-lelf", path))}


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Return readable names by the compiler's: template, arguments, no namespace and no parameters."""
    ordered = sorted(set(names))
    done = subprocess.run(["c++filt"], input="\n".join(ordered), check=True, capture_output=True, text=True)
    readable = {}
    for mangled, name in zip(ordered, done.stdout.splitlines(), strict=True):
        short = re.sub(r"\bfusedstep::cuda::|\(anonymous namespace\)::|^void ", "", name)
        readable[mangled] = re.sub(r"\([^()]*\)$", "", re.sub(r"\(\w+(::\w+)*\)(?=\d)", "", short))
    return readable


def kernels(path: Path, targets: Iterable[int] = ()) -> list[Kernel]:
    """Return every kernel of a cubin, or of a library for each of these targets. What was found is kept in build/."""
    chosen = sorted(targets)
    source = Path(__file__).read_bytes()
    digest = hashlib.sha256(path.read_bytes() + source + str(chosen).encode()).hexdigest()[:16]

    def write(to: Path) -> None:
        to.write_text(json.dumps([asdict(kernel) for kernel in read(path, chosen)]), encoding="utf-8")

    return [Kernel(**kept) for kept in json.loads(kept(KEPT / f"{digest}.json", write).read_text(encoding="utf-8"))]


def kept(path: Path, make: Callable[[Path], None]) -> Path:
    """Return a file, which `make` writes where it is not there yet; processes that ask for it meanwhile wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            fresh = path.with_name(f"new-{path.name}")
            make(fresh)
            fresh.rename(path)
    return path


def read(path: Path, targets: Sequence[int]) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if path.suffix != ".cubin":
            run("cuobjdump", "-xelf", ",".join(f"sm_{target}." for target in targets), path.resolve(), cwd=folder)
        files = [path] if path.suffix == ".cubin" else sorted(folder.iterdir())
        with ThreadPoolExecutor() as threads:
            found = list(chain.from_iterable(threads.map(disassembled, files)))
    names = demangled(kernel.name for kernel in found)
    return [replace(kernel, name=names[kernel.name]) for kernel in found]


def disassembled(cubin: Path) -> list[Kernel]:
    usage = {
        name: {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", figures)}
        for name, figures in re.findall(r"Function (\S+):\s+(REG:.*)", run("cuobjdump", "-res-usage", cubin))
    }
    about, functions = json.loads(run("nvdisasm", "-json", cubin))
    version, made = about["SM"]["version"], about[".note.nv.tkinfo"]
    target = version["major"] * 10 + version["minor"]
    found = []
    for function in functions:
        name = function["function-name"]
        used = usage[name]
        instructions = tuple(
            Instruction(i * INSTRUCTION, row.get("predicate", ""), row["opcode"], row.get("operands", ""))
            for i, row in enumerate(function["sass-instructions"])
        )
        code = Code(instructions)
        kernel = Kernel(
            name=name,
            target=target,
            registers=used["REG"],
            stack=used["STACK"],
            local=used["LOCAL"],
            shared=max(0, used["SHARED"] - (RESERVED if target >= 90 else 0)),
            compiler=made["tki_toolVersion"].rpartition("V")[2],
            options=made["tki_toolOptions"],
            opcodes=dict(Counter(i.opcode for i in code.own)),
            moved=sum(i.width for i in moves(code.own)),
            loops=[each for each in map(per_root, code.innermost_loops()) if each],
        )
        found.append(kernel)
    return found


def ptx(path: Path) -> list[Ptx]:
    """Return every kernel's PTX."""
    text = run("cuobjdump", "-ptx", path)
    entries = re.findall(r"\.entry (\w+)\((.*?)\)\s*((?:\.\w+[^\n]*\n)*)\{(.*?)\n\}", text, re.DOTALL)
    names = demangled(name for name, *_ in entries)
    found = []
    for name, parameters, head, body in entries:
        stated = {key: int(value) for key, value in re.findall(r"\.(maxntid|minnctapersm) (\d+)", head)}
        opcodes = Counter(re.findall(r"^\s*(?:@!?%\w+ )?([a-z]\w*(?:\.\w+)*)\s", body, re.MULTILINE))
        bounds = Bounds(stated.get("maxntid", 0), stated.get("minnctapersm", 0))
        sizes = tuple(int(size) for size in re.findall(r"\.b8 \w+\[(\d+)\]", parameters))
        found.append(Ptx(names[name], bounds, sizes, opcodes))
    return found
