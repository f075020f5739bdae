"""Expression graphs: nodes that are shared where they are equal, and simplified as they are made."""

import operator
from collections.abc import Callable, Iterator

UNIFORM, ROW, ELEMENT = range(3)  # one number, one for each row, one for each element
FOLDED: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "negative": operator.neg,
}
COMMUTATIVE = {"add", "multiply", "equal", "not_equal", "and", "or"}
BOOLEAN = {"less", "less_equal", "equal", "not_equal", "and", "or", "not"}


class Node:
    """A value. `name` is an operation's, or "leaf": an argument of the function, or a constant."""

    __slots__ = ("args", "index", "level", "name", "title", "value")

    def __init__(
        self, index: int, name: str, args: tuple["Node", ...], level: int, value: float | None = None, title: str = ""
    ) -> None:
        self.index = index
        self.name = name
        self.args = args
        self.level = level
        self.value = value  # of a constant
        self.title = title  # of an argument

    def is_number(self, *values: float) -> bool:
        return self.value is not None and self.value in values


class Graph:
    """Makes nodes, each once. `levels` are those of the leaves."""

    def __init__(self, levels: dict[str, int]) -> None:
        self.levels = levels
        self._nodes: dict[tuple[object, ...], Node] = {}

    def _node(self, name: str, args: tuple[Node, ...], level: int, value: float | None = None) -> Node:
        # repr tells -0.0 from 0.0
        key = (name, *(arg.index for arg in args), repr(value))
        if key not in self._nodes:
            self._nodes[key] = Node(len(self._nodes), name, args, level, value)
        return self._nodes[key]

    def leaf(self, title: str) -> Node:
        """Return the node of an argument."""
        key = ("leaf", title)
        if key not in self._nodes:
            self._nodes[key] = Node(len(self._nodes), "leaf", (), self.levels[title], None, title)
        return self._nodes[key]

    def constant(self, value: float) -> Node:
        return self._node("leaf", (), UNIFORM, float(value))

    def make(self, name: str, *args: Node) -> Node:
        """Return the node of an operation, or a simpler one of the same value."""
        simple = self._simplified(name, args)
        if simple is not None:
            return simple
        if name in COMMUTATIVE:
            args = tuple(sorted(args, key=lambda arg: arg.index))
        level = max(arg.level for arg in args)
        return self._node(name, args, {"sum": ROW, "expand": ELEMENT}.get(name, level))

    def _simplified(self, name: str, args: tuple[Node, ...]) -> Node | None:
        if name in FOLDED and all(arg.value is not None for arg in args):
            return self.constant(FOLDED[name](*(arg.value for arg in args)))
        rule = getattr(self, f"_{name}", None)
        found: Node | None = rule(*args) if rule else None
        return found

    # Each rule returns a simpler node, or None.

    def _add(self, a: Node, b: Node) -> Node | None:
        for x, y in ((a, b), (b, a)):
            if x.is_number(0):
                return y
            if x.name == "negative":
                return self.make("subtract", y, x.args[0])
        (u, x_), (v, y_) = self._factored(a), self._factored(b)
        if x_ is not None and x_ is y_:
            one = self.constant(1)
            return self.make("multiply", self.make("add", u or one, v or one), x_)
        if a.name == b.name == "where" and a.args[0] is b.args[0]:
            for x, y in ((a, b), (b, a)):  # a choice made of two halves
                if x.args[2].is_number(0) and y.args[1].is_number(0):
                    return self.make("where", a.args[0], x.args[1], y.args[2])
        return None

    def _subtract(self, a: Node, b: Node) -> Node | None:
        if b.is_number(0):
            return a
        if a.is_number(0):
            return self.make("negative", b)
        if b.name == "negative":
            return self.make("add", a, b.args[0])
        return None

    def _negative(self, a: Node) -> Node | None:
        if a.name == "negative":
            return a.args[0]
        if a.name == "subtract":
            return self.make("subtract", a.args[1], a.args[0])
        factor, rest = self._factored(a)
        if factor and rest:
            return self.make("multiply", self.make("negative", factor), rest)
        return None

    def _factored(self, a: Node) -> tuple[Node | None, Node | None]:
        """Return a uniform factor and what it multiplies."""
        if a.level == UNIFORM:
            return a, None
        if a.name == "multiply":
            for x, y in (a.args, a.args[::-1]):
                if x.level == UNIFORM:
                    return x, y
        return None, a

    def _multiply(self, a: Node, b: Node) -> Node | None:
        for x, y in ((a, b), (b, a)):
            if x.is_number(0):
                return x
            if x.is_number(1):
                return y
            if x.is_number(-1) and y.level != UNIFORM and self._factored(y)[0] is None:
                return self.make("negative", y)
            # The other branch's value may be inf or NaN: it is chosen after the product, not before.
            if x.name == "where" and (x.args[1].is_number(0) or x.args[2].is_number(0)):
                return self.make("where", x.args[0], *(self.make("multiply", arg, y) for arg in x.args[1:]))
            if x.name == "negative" and x.level != UNIFORM:
                return self.make("negative", self.make("multiply", x.args[0], y))
            # A number that depends on the call is the gradient's: not divided before it meets what it multiplies.
            # But by a number it is divided, once a call.
            if (
                x.name == "divide"
                and x.level != UNIFORM
                and x.args[0].level == UNIFORM
                and x.args[0].value is None
                and y.level != UNIFORM
            ):
                return self.make("multiply", x.args[0], self.make("divide", y, x.args[1]))
        (u, x_), (v, y_) = self._factored(a), self._factored(b)  # uniform factors go together, and outside
        if u and v and (x_ or y_):
            rest = x_ if y_ is None else y_ if x_ is None else self.make("multiply", x_, y_)
            return self.make("multiply", self.make("multiply", u, v), rest) if rest else None
        if u and x_ and y_:
            return self.make("multiply", u, self.make("multiply", x_, y_))
        if v and y_ and x_:
            return self.make("multiply", v, self.make("multiply", x_, y_))
        return None

    def _divide(self, a: Node, b: Node) -> Node | None:
        if a.is_number(0):
            return a
        # A number's reciprocal is a factor: it goes together with others, and is rounded once.
        if b.value is not None and (_exact_reciprocal(b.value) or (a.level != UNIFORM and _in_range(b.value))):
            return self.make("multiply", self.constant(1 / b.value), a)
        if a.name == "where" and (a.args[1].is_number(0) or a.args[2].is_number(0)):
            return self.make("where", a.args[0], *(self.make("divide", arg, b) for arg in a.args[1:]))
        factor, rest = self._factored(a)
        if factor and rest and b.level == UNIFORM:
            return self.make("multiply", self.make("divide", factor, b), rest)
        if factor and rest:
            return self.make("multiply", factor, self.make("divide", rest, b))
        return None

    def _where(self, condition: Node, a: Node, b: Node) -> Node | None:
        if condition.value is not None:
            return a if condition.value else b
        if condition.name == "not":
            return self.make("where", condition.args[0], b, a)
        return a if a is b else None

    def _not(self, a: Node) -> Node | None:
        if a.name == "not" and a.args[0].name in BOOLEAN:
            return a.args[0]
        return {"equal": self._flipped, "not_equal": self._flipped}.get(a.name, lambda _: None)(a)

    def _flipped(self, a: Node) -> Node | None:
        return self.make("not_equal" if a.name == "equal" else "equal", *a.args)

    def _sum(self, a: Node) -> Node | None:
        if a.level != ELEMENT:
            return self.make("multiply", self.leaf("count"), a)
        factor, rest = self._factored(a)
        if factor and rest:
            return self.make("multiply", factor, self.make("sum", rest))
        return None

    def _power(self, a: Node, b: Node) -> Node | None:
        if b.value is None or 2 * b.value % 1 or abs(b.value) > 16:
            return None
        if b.value < 0:
            return self.make("divide", self.constant(1), self.make("power", a, self.constant(-b.value)))
        # x**1.5 stays as it is until it was differentiated: x·√x has the derivative 0/0 at 0.
        return None if b.value % 1 and b.value > 1 else self.multiplied(a, b.value)

    def multiplied(self, a: Node, power: float) -> Node:
        """Return a power, a multiple of ½ and not negative, as products and a root."""
        whole, half = divmod(int(2 * power), 2)
        result = self.make("sqrt", a) if half else self.constant(1)
        square = a
        while whole:
            if whole % 2:
                result = self.make("multiply", result, square)
            whole //= 2
            if whole:
                square = self.make("multiply", square, square)
        return result


def without_power_of_two(root: Node) -> tuple[float, Node]:
    """Return a power of two and what it multiplies: a sum may take it afterwards, and rounds nothing else."""
    if root.name == "multiply":
        for a, b in (root.args, root.args[::-1]):
            if a.value is not None and _exact_reciprocal(a.value) and b.level != UNIFORM:
                return a.value, b
    return 1.0, root


def _exact_reciprocal(value: float) -> bool:
    mantissa = abs(value).hex().partition("x")[2].partition("p")[0]
    return mantissa.rstrip("0") in ("1.", "1") and _in_range(value)


def _in_range(value: float) -> bool:
    """Whether a value and its reciprocal are normal numbers in every dtype."""
    return 1e-30 < abs(value) < 1e30


def ordered(*roots: Node) -> Iterator[Node]:
    """Yield all nodes that the roots depend on, each after its arguments."""
    seen: set[int] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node.index not in seen:
            seen.add(node.index)
            stack.append((node, True))
            stack += [(arg, False) for arg in reversed(node.args)]


def rebuilt(graph: Graph, root: Node) -> Node:
    """Return `root` in another graph, whose leaves have other levels."""
    new: dict[int, Node] = {}
    for node in ordered(root):
        if node.value is not None:
            new[node.index] = graph.constant(node.value)
        elif node.args:
            new[node.index] = graph.make(node.name, *(new[arg.index] for arg in node.args))
        else:
            new[node.index] = graph.leaf(node.title)
    return new[root.index]
