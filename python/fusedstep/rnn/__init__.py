"""Fused recurrent cells over NumPy arrays: one step, forward and backward."""

from fusedstep.rnn._base import Cell, Gradients, Tape
from fusedstep.rnn.gru import GRUCell, gru_cell, gru_cell_backward
from fusedstep.rnn.lstm import LSTMCell, lstm_cell, lstm_cell_backward

__all__ = [
    "Cell",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "Tape",
    "gru_cell",
    "gru_cell_backward",
    "lstm_cell",
    "lstm_cell_backward",
]
