"""A custom loss's program as CUDA C++, the body of one CuPy ``ElementwiseKernel``.

A warp owns a row: with a sum over the last axis a row of the arrays, otherwise `PIECE` elements. Its 32 lanes walk
over the row once for each sum that has to wait for another, and once more for what each element gives: what a pass
needs is computed there again, and nothing is kept but numbers of the row. Sums are in double, lane j taking elements j,
j+32, …, the lanes folded in halves, as on the CPU. The steps, products fused with sums included, are those of the CPU's
program; exp, log, log1p and tanh are CUDA's, so that results agree with the CPU's to rounding, not in their bits.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fusedstep.loss._compile import Instruction, Program, pair_texts
from fusedstep.loss._graph import ELEMENT, Node

WARP = 32
PIECE = 256  # elements of a warp without rows of its own: enough warps to fill a GPU from a million elements on
OPTIONS = ("--fmad=false",)  # as on the CPU, fma is where the program has it

EXPRESSIONS = {
    "copy": "{0}",
    "expand": "{0}",
    "negative": "-{0}",
    "absolute": "fabs({0})",
    "sign": "sign_of({0})",
    "sqrt": "sqrt({0})",
    "exp": "exp({0})",
    "log": "log({0})",
    "log1p": "log1p({0})",
    "tanh": "tanh({0})",
    "sigmoid": "sigmoid({0})",
    "decay": "exp(-fabs({0}))",
    "log1p_of_positive": "log1p({0})",
    "not": "T({0} == T(0))",
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "minimum": "smaller({0}, {1})",
    "maximum": "larger({0}, {1})",
    "less": "T({0} < {1})",
    "less_equal": "T({0} <= {1})",
    "equal": "T({0} == {1})",
    "not_equal": "T({0} != {1})",
    "and": "T({0} != T(0) && {1} != T(0))",
    "or": "T({0} != T(0) || {1} != T(0))",
    "softplus_of": "positive({0}) + log1p({1})",
    "sigmoid_of": "({0} < T(0) ? {1} : T(1)) / (T(1) + {1})",
    "where": "{0} != T(0) ? {1} : {2}",
    "multiply_add": "fma({0}, {1}, {2})",
    "multiply_subtract": "fma({0}, {1}, -{2})",
    "subtract_multiply": "fma(-{0}, {1}, {2})",
    "where_less": "{0} < {1} ? {2} : {3}",
    "where_less_equal": "{0} <= {1} ? {2} : {3}",
    **pair_texts({"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}),
}

# NaN stays in all of them.
PREAMBLE = """
template <class T> __device__ T smaller(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ T larger(T a, T b) { return a > b || a != a ? a : b; }
template <class T> __device__ T sign_of(T a) { return a == T(0) ? T(0) : a != a ? a : copysign(T(1), a); }
template <class T> __device__ T sigmoid(T a) { return T(1) / (T(1) + exp(-a)); }
template <class T> __device__ T positive(T a) { return a < T(0) ? T(0) : a; }
// The sum over a warp, in every lane.
inline __device__ double folded(double s) {
  for (int half = 16; half; half /= 2) s += __shfl_down_sync(0xffffffffu, s, half);
  return __shfl_sync(0xffffffffu, s, 0);
}
"""


class Source(NamedTuple):
    """What an ``ElementwiseKernel`` is made of. It is run over 32 threads for each row.

    Its arguments are the input arrays, broadcast to the first one's shape; the uniform numbers, in double; the
    elements, and those of a row; the outputs: an array, or for a sum doubles, one for each row.
    """

    in_params: str
    out_params: str
    operation: str


def emitted(program: Program, sums: Sequence[bool]) -> Source:
    """Write a program.

    Parameters
    ----------
    program : Program
        Compiled for the CPU's machine.
    sums : sequence of bool
        Which outputs are summed.
    """
    writer = _Writer(program)
    arrays = [f"raw {'T' if i == 0 else f'S{i}'} a{i}" for i in range(len(program.inputs))]
    numbers = [f"float64 n{i}" for i in range(len(program.uniforms))]
    outputs = [f"raw {'float64' if total else 'T'} o{i}" for i, total in enumerate(sums)]
    return Source(
        ", ".join([*arrays, *numbers, "int64 size", "int64 columns"]),
        ", ".join(outputs),
        "\n".join(writer.lines(sums)),
    )


class _Writer:
    """Names of values, and in which pass over a row each is known."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.steps = {step.node.index: step for step in program.code}
        self.inputs = {name: i for i, name in enumerate(program.inputs)}
        self.numbers = {node.index: i for i, node in enumerate(program.uniforms)}
        self.passes: dict[int, int] = {}  # how many passes go before
        for step in program.code:
            before = max((self.passes.get(arg.index, 0) for arg in step.args), default=0)
            self.passes[step.node.index] = before + (step.name == "sum")

    def name(self, node: Node) -> str:
        if node.index in self.steps:
            return f"v{node.index}"
        return f"x{self.inputs[node.title]}" if node.level == ELEMENT else f"u{self.numbers[node.index]}"

    def value(self, step: Instruction) -> str:
        return EXPRESSIONS[step.name].format(*map(self.name, step.args))

    def lines(self, sums: Sequence[bool]) -> Iterator[str]:
        """Yield the kernel's lines."""
        program = self.program
        yield f"const int lane = i % {WARP};"
        yield f"const ptrdiff_t row = i / {WARP}, begin = row * columns;"
        yield "const ptrdiff_t end = begin + columns < size ? begin + columns : size;"
        for i in range(len(program.uniforms)):
            yield f"const T u{i} = T(n{i});"
        last = max(self.passes.values(), default=0)
        for p in range(last):
            own = [step for step in program.code if step.name == "sum" and self.passes[step.node.index] == p + 1]
            for step in own:
                yield f"double s{step.node.index} = 0;"
            yield from self.walk(
                [step.args[0] for step in own],
                [f"s{step.node.index} += double({self.name(step.args[0])});" for step in own],
            )
            for step in own:
                yield f"const T v{step.node.index} = T(folded(s{step.node.index}));"
            for step in program.code:
                if step.rows and step.name != "sum" and self.passes[step.node.index] == p + 1:
                    yield f"const T v{step.node.index} = {self.value(step)};"
        # An output that lies where an input lies is written in the last pass alone.
        outputs = list(enumerate(program.outputs))
        elements = [(i, root) for i, (root, level) in outputs if level == ELEMENT]
        for i, _ in elements:
            if sums[i]:
                yield f"double t{i} = 0;"
        if elements:
            writes = [
                f"t{i} += double({self.name(root)});" if sums[i] else f"o{i}[j] = {self.name(root)};"
                for i, root in elements
            ]
            yield from self.walk([root for _, root in elements], writes)
        for i, _ in elements:
            if sums[i]:
                yield f"t{i} = folded(t{i});"
        yield "if (lane == 0) {"
        for i, (root, level) in outputs:
            if level != ELEMENT:
                yield f"  o{i}[row] = {self.name(root)};"
            elif sums[i]:
                yield f"  o{i}[row] = t{i};"
        yield "}"

    def walk(self, wanted: Sequence[Node], body: Sequence[str]) -> Iterator[str]:
        """Yield a pass over the row that computes what is wanted of each element."""
        needed: set[int] = set()
        leaves: set[str] = set()
        stack = list(wanted)
        while stack:
            node = stack.pop()
            if node.index in self.steps:
                if node.level == ELEMENT and node.index not in needed:
                    needed.add(node.index)
                    stack += self.steps[node.index].args
            elif node.level == ELEMENT:
                leaves.add(node.title)
        yield f"for (ptrdiff_t j = begin + lane; j < end; j += {WARP}) {{"
        for title, i in self.inputs.items():
            if title in leaves:
                yield f"  const T x{i} = T(a{i}[j]);"
        for step in self.program.code:
            if step.node.index in needed:
                yield f"  const T v{step.node.index} = {self.value(step)};"
        for line in body:
            yield f"  {line}"
        yield "}"
