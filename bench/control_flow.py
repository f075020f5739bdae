"""Control flow in the machine code of a CUDA kernel: its own instructions, without subroutines, and its loops."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

INSTRUCTION = 16  # bytes of one


@dataclass(frozen=True)
class Instruction:
    address: int
    predicate: str  # "@P0", "@!PT" and the like, or ""
    opcode: str
    operands: str

    @property
    def kind(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def width(self) -> int:
        """Bytes that a thread moves, of loads and stores."""
        for modifier in self.opcode.split(".")[1:]:
            if modifier in {"64", "128", "256"}:
                return int(modifier) // 8
            if re.fullmatch(r"[US](8|16)", modifier):
                return int(modifier[1:]) // 8
        return 4


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel, and of the subroutines that it calls."""

    instructions: tuple[Instruction, ...]

    @cached_property
    def jumps(self) -> dict[int, set[int]]:
        """Where control may go from the instructions that direct it. A call comes back to the next."""
        meeting: dict[str, set[int]] = {}  # where the threads of a barrier go on together
        for i in self.instructions:
            if i.kind == "BSSY":
                barrier, target = i.operands.split(",")
                meeting.setdefault(barrier, set()).add(int(target, 16))
        jumps = {}
        for i in self.instructions:
            following = i.address + INSTRUCTION
            if i.kind in {"EXIT", "RET"}:
                jumps[i.address] = {following} if i.predicate else set()
            elif i.kind == "BRA":
                *conditions, target = i.operands.split(",")
                jumps[i.address] = {int(target, 16)} | ({following} if conditions or i.predicate else set())
            elif i.kind == "BSYNC" and following not in meeting[i.operands]:  # else it stands right before that place
                jumps[i.address] = meeting[i.operands] | {following}
            elif i.kind in {"BRX", "JMP", "JMX"}:
                raise NotImplementedError(f"{i.opcode} {i.operands}: a jump through a register")
        return jumps

    @cached_property
    def blocks(self) -> dict[int, tuple[list[Instruction], set[int]]]:
        """Runs of instructions that control enters at the first and leaves after the last, with where it goes then."""
        begins = {0}.union(*self.jumps.values(), (at + INSTRUCTION for at in self.jumps))
        blocks: dict[int, tuple[list[Instruction], set[int]]] = {}
        run: list[Instruction] = []
        for i in self.instructions:
            if i.address in begins:
                run = []
                blocks[i.address] = (run, set())
            run.append(i)
            if (following := i.address + INSTRUCTION) in begins:
                blocks[run[0].address] = (run, self.jumps.get(i.address, {following}))
        return blocks

    @cached_property
    def reached(self) -> set[int]:
        """The blocks that are reached without a call: the kernel's own."""
        seen, left = {0}, [0]
        while left:
            fresh = self.blocks[left.pop()][1] - seen
            seen |= fresh
            left += fresh
        return seen

    def of(self, blocks: Iterable[int]) -> tuple[Instruction, ...]:
        return tuple(i for at in sorted(blocks) for i in self.blocks[at][0])

    @cached_property
    def own(self) -> tuple[Instruction, ...]:
        """The kernel's instructions without those of subroutines."""
        return self.of(self.reached)

    def innermost_loops(self) -> list[tuple[Instruction, ...]]:
        """Return the loops that have no loop inside."""
        return [self.of(loop) for loop in self._loops_within(self.reached, set())]

    def _loops_within(self, blocks: set[int], entries: set[int]) -> Iterator[set[int]]:
        # A loop is a strongly connected part. What is still connected without the edges to its entries is inside.
        flow = {at: [to for to in self.blocks[at][1] if to in blocks - entries] for at in blocks}
        for loop in strongly_connected(flow):
            if len(loop) == 1 and not any(at in flow[at] for at in loop):
                continue
            heads = {to for at in self.reached - loop for to in self.blocks[at][1] if to in loop}
            yield from list(self._loops_within(loop, heads)) or [loop]


def strongly_connected(flow: dict[int, list[int]]) -> list[set[int]]:
    """Return the strongly connected parts of a graph. Tarjan 1972, without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    parts = []
    for root, first in flow.items():
        if root in index:
            continue
        work = [(root, iter(first))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            at, edges = work[-1]
            for to in edges:
                if to not in index:
                    index[to] = low[to] = len(index)
                    stack.append(to)
                    on_stack.add(to)
                    work.append((to, iter(flow[to])))
                    break
                if to in on_stack:
                    low[at] = min(low[at], index[to])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[at])
                if low[at] == index[at]:
                    part = set()
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        part.add(member)
                        if member == at:
                            break
                    parts.append(part)
    return parts
