"""ONNX Runtime: a model of one LSTM or GRU node, inputs and outputs bound once."""

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bench import contenders, inputs
from bench.cases import CellCase, RnnCase, SequenceCase, StreamCase
from bench.contenders import Array, Step

# Places of ONNX's gates in torch's order: i o f c out of i f g o, and z r h out of r z n.
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
STATE = {"lstm": ("h", "c"), "gru": ("h",)}


def model(case: RnnCase, weights: dict[str, Array], steps: int, output: bool) -> bytes:
    """Build and serialize the model.

    x (T, B, I) and the state (1, B, H) go in; out come the new state and, with `output`, y (T, 1, B, H).
    """
    B, H = case.batch, case.size

    def ordered(name: str) -> Array:
        gates = np.split(weights[name], case.gates)
        return np.concatenate([gates[i] for i in GATES[case.method]])[None]

    constants = {"W": ordered("weight_ih"), "R": ordered("weight_hh")}
    constants["B"] = np.concatenate([ordered("bias_ih"), ordered("bias_hh")], axis=1)
    state = STATE[case.method]
    shapes = {"x": (steps, B, H)} | dict.fromkeys(state, (1, B, H))
    results = {"y": (steps, 1, B, H)} if output else {}
    results |= {f"{name}_next": (1, B, H) for name in state}
    attributes = {} if case.method == "lstm" else {"linear_before_reset": 1}
    node = helper.make_node(
        case.method.upper(),
        ["x", "W", "R", "B", "", *state],
        ["y" if output else "", *(f"{name}_next" for name in state)],
        hidden_size=H,
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "rnn",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in results.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def values(*arrays: Array) -> list[ort.OrtValue]:
    return [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]


class Contender(contenders.Contender):
    def describe(self) -> dict[str, Any]:
        return {"version": ort.__version__}

    def session(
        self, case: RnnCase, weights: dict[str, Array], steps: int = 1, *, output: bool = False
    ) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        return ort.InferenceSession(model(case, weights, steps, output), options, providers=["CPUExecutionProvider"])

    def bound(
        self, session: ort.InferenceSession, given: list[ort.OrtValue], taken: list[ort.OrtValue]
    ) -> ort.IOBinding:
        """Bind inputs and outputs in the model's order."""
        binding = session.io_binding()
        for value, node in zip(given, session.get_inputs(), strict=True):
            binding.bind_ortvalue_input(node.name, value)
        for value, node in zip(taken, session.get_outputs(), strict=True):
            binding.bind_ortvalue_output(node.name, value)
        return binding

    def cell(self, case: CellCase) -> Step:
        x, state, weights = inputs.cell(case)
        session = self.session(case, weights)
        out = values(*(np.zeros_like(a[None]) for a in state))
        binding = self.bound(session, values(*(a[None] for a in (x, *state))), out)
        return Step(
            "run(binding)",
            {"run": session.run_with_iobinding, "binding": binding},
            result=lambda: [value.numpy()[0] for value in out],
            variant="bound",
        )

    def sequence(self, case: SequenceCase) -> Step:
        given = inputs.sequence(case)
        session = self.session(case, given.weights, case.steps, output=True)
        out = values(np.zeros_like(given.x[:, None]), *(np.zeros_like(a[None]) for a in given.state))
        binding = self.bound(session, values(given.x, *(a[None] for a in given.state)), out)
        return Step(
            "run(binding)",
            {"run": session.run_with_iobinding, "binding": binding},
            result=lambda: [out[0].numpy()[:, 0], *(value.numpy()[0] for value in out[1:])],
            variant="bound",
        )

    def stream(self, case: StreamCase) -> Step:
        """Bind two states, each the other's input: steps take turns."""
        x, state, weights = inputs.cell(case)
        session = self.session(case, weights)
        (x,), *states = values(x[None]), *(values(*(a[None] for a in state)) for _ in range(2))
        turns = [self.bound(session, [x, *states[i]], states[1 - i]) for i in range(2)]
        last = states[inputs.STEPS % 2]
        return Step(
            "run(next(turns))",
            {"run": session.run_with_iobinding, "turns": itertools.cycle(turns)},
            result=lambda: [value.numpy()[0] for value in (last[0], *last)],
            variant="bound",
        )
