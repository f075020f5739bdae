"""A custom loss's program in words."""

from fusedstep.loss._compile import Program, pair_texts
from fusedstep.loss._graph import ROW, UNIFORM, Node, ordered

SYMBOLS = {
    "add": "{} + {}",
    "subtract": "{} − {}",
    "multiply": "{} · {}",
    "divide": "{} / {}",
    "negative": "−{}",
    "absolute": "|{}|",
    "less": "{} < {}",
    "less_equal": "{} ≤ {}",
    "equal": "{} = {}",
    "not_equal": "{} ≠ {}",
    "and": "{} and {}",
    "or": "{} or {}",
    "not": "not {}",
    "where": "{} ? {} : {}",
    "multiply_add": "{} · {} + {}",
    "multiply_subtract": "{} · {} − {}",
    "subtract_multiply": "{2} − {0} · {1}",
    "copy": "{}",
    "where_less": "{} < {} ? {} : {}",
    "where_less_equal": "{} ≤ {} ? {} : {}",
    **pair_texts({"add": "+", "subtract": "−", "multiply": "·", "divide": "/"}),
}


def text_of(name: str, names: list[str], program: Program, value_level: int, factor: float) -> str:
    """Return the steps of a program, and what it costs."""
    titles: dict[int, str] = {}

    def title(node: Node) -> str:
        if node.value is not None:
            return f"{node.value:g}"
        return titles.get(node.index, node.title)

    def line(operation: str, args: tuple[Node, ...]) -> str:
        shown = [title(arg) for arg in args]
        return SYMBOLS[operation].format(*shown) if operation in SYMBOLS else f"{operation}({', '.join(shown)})"

    lines = []
    uniform = [node for node in ordered(*program.uniforms) if node.args and node.level == UNIFORM]
    for i, node in enumerate(uniform):
        titles[node.index] = f"u{i}"
        lines.append(f"  u{i} = {line(node.name, node.args)}    once a call")
    for i, step in enumerate(program.code):
        titles[step.node.index] = f"v{i}"
        lines.append(f"  v{i} = {line(step.name, step.args)}{'    once a row' if step.rows else ''}")
    if factor != 1:
        lines.append(f"  the value: {factor:g} times the sum")
    per = "row" if value_level == ROW else "element"
    operations = sum(step.flops for step in program.code if not step.rows)
    arrays = len(program.inputs)
    return (
        f"{name}({', '.join(names)}), a value for each {per}; seed: the gradient's scale\n"
        + "".join(f"{text}\n" for text in lines)
        + f"an element: {len([s for s in program.code if not s.rows])} steps, {operations} FLOPs, {arrays} values read "
        f"and 1 written ({4 * (arrays + 1)} bytes in float32); {program.registers} registers\n"
    )
