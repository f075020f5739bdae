"""From an expression graph to a program of the core's machine: fused instructions, registers that are used again."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from fusedstep import _core, _cost
from fusedstep.loss._graph import ELEMENT, ROW, UNIFORM, Graph, Node, ordered

# Operations of arithmetic that an instruction takes for each element.
FLOPS = {
    **dict.fromkeys(("copy", "expand", "sign", "not", "negative", "absolute", "where"), 0),
    **dict.fromkeys(("less", "less_equal", "equal", "not_equal", "and", "or"), 1),
    **dict.fromkeys(("multiply_add", "multiply_subtract", "subtract_multiply"), 2),
    "exp": _cost.EXP,
    "log": _cost.LOG,
    "log1p": _cost.LOG1P,
    "tanh": _cost.TANH,
    "sigmoid": _cost.SIGMOID,
    "softplus": _cost.SOFTPLUS,
}


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
    """Return the roots with powers as exp(b·log a), and a row's value expanded where elements take it."""
    new: dict[int, Node] = {}
    for node in ordered(*roots):
        args = [new[arg.index] for arg in node.args]
        if node.name == "power":
            made = graph.make("exp", graph.make("multiply", args[1], graph.make("log", args[0])))
        else:
            if node.level == ELEMENT and node.name != "expand":
                args = [graph.make("expand", arg) if arg.level == ROW else arg for arg in args]
            made = graph.make(node.name, *args) if args else node
        new[node.index] = made
    return [new[root.index] for root in roots]


def instructions(roots: Sequence[Node]) -> list[Instruction]:
    """Return what computes the roots, in order. A product that one sum alone takes is fused with it."""
    nodes = [node for node in ordered(*roots) if node.args and node.level != UNIFORM]
    uses = Counter(arg.index for node in nodes for arg in node.args)
    uses.update(root.index for root in roots)
    fused: set[int] = set()
    code: dict[int, Instruction] = {}

    def product(node: Node, level: int) -> bool:
        return node.name == "multiply" and node.level == level and uses[node.index] == 1

    for node in nodes:
        code[node.index] = Instruction(node.name, node, node.args)
        if node.name not in ("add", "subtract"):
            continue
        a, b = node.args
        if product(a, node.level):
            name = "multiply_add" if node.name == "add" else "multiply_subtract"
            code[node.index] = Instruction(name, node, (*a.args, b))
            fused.add(a.index)
        elif product(b, node.level):
            name = "multiply_add" if node.name == "add" else "subtract_multiply"
            code[node.index] = Instruction(name, node, (*b.args, a))
            fused.add(b.index)
    return [instruction for index, instruction in code.items() if index not in fused]


class Output(NamedTuple):
    """A root with the level of what is asked for."""

    node: Node
    level: int


class Program(NamedTuple):
    """Compiled code. `uniforms` are what the caller computes for each call, in the order of their slots."""

    code: list[Instruction]
    expression: _core.Expression
    inputs: list[str]
    uniforms: list[Node]
    registers: int


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
    return Program(code, expression, inputs, list(uniforms.values()), registers)
