"""From an expression graph to a program of the core's machine: fused instructions, registers that are used again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fusedstep import _core, _cost
from fusedstep.loss._graph import ELEMENT, ROW, UNIFORM, Graph, Node, ordered

# Steps of two operations, (a ∘ b) • c or c • (a ∘ b), each rounded. A product that is added to is an fma instead.
ARITHMETIC = ("add", "subtract", "multiply", "divide")
PAIRS = {
    (first, second): f"{first}_then_{second}"
    for first in ARITHMETIC
    for second in ("add", "subtract", "subtract_from", "multiply", "divide", "divide_into")
    if first != "multiply" or second in ("multiply", "divide", "divide_into")
}
REVERSED = {"add": "add", "subtract": "subtract_from", "multiply": "multiply", "divide": "divide_into"}

# Operations of arithmetic that an instruction takes for each element.
FLOPS = {
    **dict.fromkeys(("copy", "expand", "sign", "not", "negative", "absolute", "where"), 0),
    **dict.fromkeys(("less", "less_equal", "equal", "not_equal", "and", "or", "where_less", "where_less_equal"), 1),
    **dict.fromkeys(("multiply_add", "multiply_subtract", "subtract_multiply", *PAIRS.values()), 2),
    "exp": _cost.EXP,
    "log": _cost.LOG,
    "log1p": _cost.LOG1P,
    "tanh": _cost.TANH,
    "sigmoid": _cost.SIGMOID,
    "decay": _cost.EXP,
    "log1p_of_positive": _cost.LOG1P_OF_POSITIVE,
    "softplus_of": _cost.SOFTPLUS - _cost.EXP,
    "sigmoid_of": 2,
}


def pair_texts(signs: Mapping[str, str]) -> dict[str, str]:
    """Return how the pairs are written, by their names, with these signs of arithmetic."""
    texts = {}
    for (first, second), name in PAIRS.items():
        made = f"({{0}} {signs[first]} {{1}})"
        reverse = next((known for known, other in REVERSED.items() if other == second != known), "")
        texts[name] = f"{{2}} {signs[reverse]} {made}" if reverse else f"{made} {signs[second]} {{2}}"
    return texts


POSITIVE = {"absolute", "exp", "decay", "sigmoid", "softplus", "sqrt"}


def not_negative(node: Node) -> bool:
    """Whether a value can be told to be 0 or more, or NaN."""
    if node.value is not None:
        return node.value >= 0
    if node.name in ("add", "multiply", "divide", "minimum", "maximum"):
        a, b = node.args
        return (node.name == "multiply" and a is b) or (not_negative(a) and not_negative(b))
    return node.name in POSITIVE


class Instruction(NamedTuple):
    """One step: `node` from `args`, as the machine does it."""

    name: str
    node: Node
    args: tuple[Node, ...]

    @property
    def rows(self) -> bool:
        return self.node.level == ROW

    @property
    def flops(self) -> int:
        return FLOPS.get(self.name, 1)


def lowered(graph: Graph, roots: Sequence[Node]) -> list[Node]:
    """Return the roots with powers as what they are made of, and a row's value expanded where elements take it."""
    new: dict[int, Node] = {}
    nodes = list(ordered(*roots))
    # softplus(x) and σ(x), its derivative, are made of one exponential.
    pairs = {node.args[0].index for node in nodes if node.name == "softplus"}
    for node in nodes:
        args = [new[arg.index] for arg in node.args]
        if node.name == "power":
            made = _power(graph, *args)
        elif node.name == "log1p" and not_negative(args[0]) and node.level != UNIFORM:
            made = graph.make("log1p_of_positive", args[0])
        elif node.name in ("softplus", "sigmoid") and node.args[0].index in pairs and node.level != UNIFORM:
            made = graph.make(f"{node.name}_of", args[0], graph.make("decay", args[0]))
        else:
            if node.level == ELEMENT and node.name != "expand":
                args = [graph.make("expand", arg) if arg.level == ROW else arg for arg in args]
            made = graph.make(node.name, *args) if args else node
        new[node.index] = made
    return [new[root.index] for root in roots]


def _power(graph: Graph, a: Node, b: Node) -> Node:
    """Return a^b: products and a root, or exp(b·log a), which is NaN for a < 0.

    An exponent that is one number for all may be whole where a is negative, and a⁰ is 1.
    """
    make, one, zero = graph.make, graph.constant(1), graph.constant(0)
    if b.value is not None and not 2 * b.value % 1 and 0 <= b.value <= 16:
        return graph.multiplied(a, b.value)
    if not_negative(a) or b.level != UNIFORM or (b.value is not None and b.value % 1):
        power = make("exp", make("multiply", b, make("log", a)))
    else:
        sign = make("parity", b) if b.value is None else graph.constant(1 - 2 * (b.value % 2))
        size = make("exp", make("multiply", b, make("log", make("absolute", a))))
        power = make("multiply", make("where", make("less", a, zero), sign, one), size)
    return power if b.value is not None else make("where", make("equal", b, zero), one, power)


def instructions(roots: Sequence[Node]) -> list[Instruction]:
    """Return what computes the roots. What one instruction alone takes is fused with it where a step does both.

    A product and a sum are an fma; other pairs of arithmetic, a comparison and a choice, round as they do apart.
    """
    nodes = [node for node in ordered(*roots) if node.args and node.level != UNIFORM]
    uses = Counter(arg.index for node in nodes for arg in node.args)
    uses.update(root.index for root in roots)
    code = {node.index: Instruction(node.name, node, node.args) for node in nodes}

    def fuse(node: Node, taken: Node, name: str, *args: Node) -> None:
        code[node.index] = Instruction(name, node, args)
        del code[taken.index]

    def own(arg: Node, node: Node, *names: str) -> bool:
        step = code.get(arg.index)
        return step is not None and step.name in names and arg.level == node.level and uses[arg.index] == 1

    for node in nodes:
        if node.name not in ("add", "subtract"):
            continue
        a, b = node.args
        if own(a, node, "multiply"):
            fuse(node, a, "multiply_add" if node.name == "add" else "multiply_subtract", *a.args, b)
        elif own(b, node, "multiply"):
            fuse(node, b, "multiply_add" if node.name == "add" else "subtract_multiply", *b.args, a)
    for node in nodes:
        if node.index not in code:
            continue
        if node.name == "where" and own(node.args[0], node, "less", "less_equal"):
            condition = node.args[0]
            fuse(node, condition, f"where_{condition.name}", *condition.args, *node.args[1:])
        if code[node.index].name not in ARITHMETIC:
            continue
        a, b = node.args
        for taken, other, second in ((a, b, node.name), (b, a, REVERSED[node.name])):
            if own(taken, node, *ARITHMETIC) and (taken.name, second) in PAIRS:
                fuse(node, taken, PAIRS[taken.name, second], *taken.args, other)
                break
    return list(code.values())


class Output(NamedTuple):
    """A root with the level of what is asked for."""

    node: Node
    level: int


class Broadcast(NamedTuple):
    """A sum over the axes that an argument of this shape was broadcast along."""

    shape: tuple[int, ...]


class Program(NamedTuple):
    """Compiled code.

    `uniforms` are what the caller computes for each call, in the order of their slots; `outputs`, what the code
    computes, lowered; `kernels`, what runs it on a GPU, by which outputs are summed.
    """

    code: list[Instruction]
    expression: _core.Expression
    inputs: list[str]
    uniforms: list[Node]
    registers: int
    outputs: list[Output]
    by_row: bool
    kernels: dict[tuple[bool, ...], Any]


def compiled(graph: Graph, outputs: Sequence[Output], inputs: list[str], by_row: bool) -> Program:
    """Compile outputs. The last one may lie where the input lies: what writes it comes last."""
    roots = lowered(graph, [o.node for o in outputs])
    for i, (root, output) in enumerate(zip(roots, outputs, strict=True)):
        if output.level == ELEMENT and root.level == ROW:
            roots[i] = graph.make("expand", root)
    code = instructions(roots)
    # Which instruction writes an output itself: the first output of a root, the last one only as the last instruction.
    writes: dict[int, int] = {}
    copies: list[tuple[int, Node]] = []
    made = {instruction.node.index for instruction in code}
    for i, root in enumerate(roots):
        direct = root.index in made and root.index not in writes
        if direct and (i < len(roots) - 1 or len(roots) == 1 or code[-1].node is root):
            writes[root.index] = i
        else:
            copies.append((i, root))

    uniforms = {
        arg.index: arg
        for arg in (*(arg for step in code for arg in step.args), *(root for _, root in copies))
        if arg.level == UNIFORM
    }
    slots = {graph.leaf(name).index: i for i, name in enumerate(inputs)}
    slots |= {index: len(inputs) + i for i, index in enumerate(uniforms)}
    first = len(inputs) + len(uniforms)
    last_use = {arg.index: at for at, step in enumerate(code) for arg in step.args}
    last_use |= {root.index: len(code) for _, root in copies}
    free: list[int] = []
    registers = 0
    placed: list[tuple[str, bool, int, list[int]]] = []  # outputs as negative numbers, until registers are counted
    for at, step in enumerate(code):
        operands = [slots[arg.index] for arg in step.args]
        dying = {arg.index for arg in step.args if last_use[arg.index] == at and slots[arg.index] >= first}
        released = sorted(slots[index] for index in dying)
        if step.name not in ("sum", "expand"):  # these read and write at different places
            free += released
        if step.node.index in writes:
            to = -1 - writes[step.node.index]
        elif free:
            to = free.pop()
        else:
            to = first + registers
            registers += 1
        if step.name in ("sum", "expand"):
            free += released
        slots[step.node.index] = to
        placed.append((step.name, step.rows, to, operands))
    for i, root in copies:
        placed.append(("copy", outputs[i].level == ROW, -1 - i, [slots[root.index]]))

    def slot(number: int) -> int:
        return number if number >= 0 else first + registers - 1 - number

    final = [(name, rows, slot(to), [slot(a) for a in operands]) for name, rows, to, operands in placed]
    expression = _core.Expression(
        final, len(inputs), len(uniforms), registers, [output.level == ROW for output in outputs], by_row
    )
    lowest = [Output(root, output.level) for root, output in zip(roots, outputs, strict=True)]
    return Program(code, expression, inputs, list(uniforms.values()), registers, lowest, by_row, {})
