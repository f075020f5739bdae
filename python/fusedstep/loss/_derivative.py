"""Derivatives of expression graphs, in reverse mode."""

from collections import defaultdict
from collections.abc import Iterator

from fusedstep.loss._graph import ELEMENT, ROW, UNIFORM, Graph, Node, ordered


def pulled(graph: Graph, node: Node, adjoint: Node) -> Iterator[tuple[Node, Node]]:
    """Yield each argument of a node with what it adds to the argument's adjoint.

    Where minimum or maximum has equal arguments, the first one gets all. |a| has derivative 0 at 0.
    """
    make, one, zero = graph.make, graph.constant(1), graph.constant(0)
    a, b, c = (*node.args, None, None)[:3] if len(node.args) < 3 else node.args
    assert a is not None
    match node.name:
        case "add":
            assert b
            yield a, adjoint
            yield b, adjoint
        case "subtract":
            assert b
            yield a, adjoint
            yield b, make("negative", adjoint)
        case "multiply":
            assert b
            yield a, make("multiply", adjoint, b)
            yield b, make("multiply", adjoint, a)
        case "divide":
            assert b
            yield a, make("divide", adjoint, b)
            yield b, make("negative", make("divide", make("multiply", adjoint, node), b))
        case "power":
            assert b
            slope = make("multiply", b, make("power", a, make("subtract", b, one)))
            if b.value is None:  # 0·0^−1
                slope = make("where", make("equal", b, zero), zero, slope)
            yield a, make("multiply", adjoint, slope)
            yield b, make("multiply", adjoint, make("multiply", node, make("log", a)))
        case "minimum" | "maximum":
            assert b
            first = make("less_equal", *((a, b) if node.name == "minimum" else (b, a)))
            yield a, make("where", first, adjoint, zero)
            yield b, make("where", first, zero, adjoint)
        case "where":
            assert b
            assert c
            yield b, make("where", a, adjoint, zero)
            yield c, make("where", a, zero, adjoint)
        case "negative":
            yield a, make("negative", adjoint)
        case "absolute":
            yield a, make("multiply", adjoint, make("sign", a))
        case "sqrt":
            yield a, make("divide", make("multiply", graph.constant(0.5), adjoint), node)
        case "exp":
            yield a, make("multiply", adjoint, node)
        case "log":
            yield a, make("divide", adjoint, a)
        case "log1p":
            yield a, make("divide", adjoint, make("add", one, a))
        case "tanh":
            yield a, make("multiply", adjoint, make("subtract", one, make("multiply", node, node)))
        case "sigmoid":
            yield a, make("multiply", adjoint, make("multiply", node, make("subtract", one, node)))
        case "softplus":
            yield a, make("multiply", adjoint, make("sigmoid", a))
        case "sum":
            yield a, adjoint
        case _:  # steps: sign, comparisons, and, or, not
            return


def derivatives(graph: Graph, root: Node, seed: Node, wanted: dict[str, Node]) -> dict[tuple[str, int], Node]:
    """Return the derivatives of Σ seed·root in leaves, by name and level.

    A leaf that is uniform may have two, to be summed over all elements and over all rows.
    """
    # The adjoint of an element's value has one for each element, that of a row's value one for each row; that of a
    # uniform value is kept apart by where it comes from, elements or rows, and summed at last.
    adjoints: dict[tuple[int, int], Node] = {(root.index, root.level): seed}
    needed: set[int] = set()
    nodes = list(ordered(root))
    for node in nodes:
        if node.title in wanted or any(arg.index in needed for arg in node.args):
            needed.add(node.index)
    for node in reversed(nodes):
        for level in (ELEMENT, ROW):
            adjoint = adjoints.get((node.index, level))
            if adjoint is None or not node.args:
                continue
            for arg, extra in pulled(graph, node, adjoint):
                # A row's sum spreads its adjoint to elements; an element gives a row's value the sum of its row.
                to = ELEMENT if node.name == "sum" and arg.level == ELEMENT else level
                if arg.level == ROW and to == ELEMENT:
                    extra, to = graph.make("sum", extra), ROW  # noqa: PLW2901
                if arg.index not in needed or extra.is_number(0):
                    continue
                key = (arg.index, to)
                adjoints[key] = graph.make("add", adjoints[key], extra) if key in adjoints else extra
    found: defaultdict[tuple[str, int], Node] = defaultdict()
    for name, leaf in wanted.items():
        for level in (ELEMENT, ROW):
            if (leaf.index, level) in adjoints:
                found[name, level] = adjoints[leaf.index, level]
    assert all(leaf.level in (ELEMENT, UNIFORM) for leaf in wanted.values())
    return dict(found)
