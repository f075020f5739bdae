"""Recurrent cells and layers over NumPy arrays: one step or a whole sequence, forward and backward, and streams."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fusedstep.rnn import gru_cells, layer_norm, lstm_cells
from fusedstep.rnn._base import Cell, Gradients, Tape
from fusedstep.rnn._module import Module
from fusedstep.rnn._tape import SequenceTape
from fusedstep.rnn.functional import gru, gru_backward, lstm, lstm_backward
from fusedstep.rnn.gru_cells import (
    GRUCell,
    gru_cell,
    gru_cell_backward,
    gru_cell_backward_reference,
    gru_cell_reference,
)
from fusedstep.rnn.layer_norm import layer_norm_gru_reference, layer_norm_lstm_reference
from fusedstep.rnn.lstm_cells import (
    LSTMCell,
    kind_of,
    lstm_cell,
    lstm_cell_backward,
    lstm_cell_backward_reference,
    lstm_cell_reference,
)
from fusedstep.rnn.sequence import GRU, LSTM
from fusedstep.rnn.stream import Stream


class CellRow(NamedTuple):
    """The public names of a compiled cell, with the options that select it filled in."""

    cell: Callable[..., Cell]  # (input_size, hidden_size, ...)
    step: Callable[..., Any]  # (x, state, **weights)
    backward: Callable[..., Gradients]  # (tape, dh) or (tape, dh, dc)
    reference: Callable[..., Any]  # as step
    backward_reference: Callable[..., Gradients]  # (x, state, weights, dh) or (x, state, weights, dh, dc)
    unit_flops: tuple[int, int]  # of a hidden unit of a row, without products: forward, backward


# The cells that have a step of their own, by their compiled names: what tests and benchmarks iterate.
CELLS: dict[str, CellRow] = {
    **{
        kind_of(peephole, coupled): CellRow(
            partial(LSTMCell, peephole=peephole, coupled=coupled),
            partial(lstm_cell, coupled=coupled),
            lstm_cell_backward,
            partial(lstm_cell_reference, coupled=coupled),
            partial(lstm_cell_backward_reference, coupled=coupled),
            lstm_cells.unit_flops(peephole, coupled),
        )
        for coupled in (False, True)
        for peephole in (False, True)
    },
    "gru": CellRow(
        GRUCell,
        gru_cell,
        gru_cell_backward,
        gru_cell_reference,
        gru_cell_backward_reference,
        gru_cells.unit_flops(reset_after=True),
    ),
    "gru_reset_before": CellRow(
        partial(GRUCell, reset_after=False),
        partial(gru_cell, reset_after=False),
        gru_cell_backward,
        partial(gru_cell_reference, reset_after=False),
        partial(gru_cell_backward_reference, reset_after=False),
        gru_cells.unit_flops(reset_after=False),
    ),
}

# Those that sequences alone have, too.
UNIT_FLOPS: dict[str, tuple[int, int]] = {
    **{kind: row.unit_flops for kind, row in CELLS.items()},
    "layer_norm_lstm": layer_norm.unit_flops(states=2),
    "layer_norm_gru": layer_norm.unit_flops(states=1),
}

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "UNIT_FLOPS",
    "Cell",
    "CellRow",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "Module",
    "SequenceTape",
    "Stream",
    "Tape",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "gru_cell_backward_reference",
    "gru_cell_reference",
    "layer_norm_gru_reference",
    "layer_norm_lstm_reference",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_cell_backward_reference",
    "lstm_cell_reference",
]
