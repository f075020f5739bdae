"""ONNX Runtime: a model of one LSTM or GRU node over one time step, inputs and outputs bound once."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bench import contenders, inputs
from bench.cases import CellCase
from bench.contenders import Array, Step

# Places of ONNX's gates in torch's order: i o f c out of i f g o, and z r h out of r z n.
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


def model(case: CellCase, weights: dict[str, Array]) -> bytes:
    """Build and serialize the model: x (1, B, I) and the state (1, B, H) in, the new state out."""
    B, H = case.batch, case.size

    def ordered(name: str) -> Array:
        gates = np.split(weights[name], case.gates)
        return np.concatenate([gates[i] for i in GATES[case.method]])[None]

    constants = {"W": ordered("weight_ih"), "R": ordered("weight_hh")}
    constants["B"] = np.concatenate([ordered("bias_ih"), ordered("bias_hh")], axis=1)
    state = ["h", "c"] if case.method == "lstm" else ["h"]
    attributes = {} if case.method == "lstm" else {"linear_before_reset": 1}
    node = helper.make_node(
        case.method.upper(),
        ["x", "W", "R", "B", "", *state],
        ["", *(f"{name}_next" for name in state)],
        hidden_size=H,
        **attributes,
    )
    shapes = {"x": (1, B, H)} | dict.fromkeys(state, (1, B, H))
    graph = helper.make_graph(
        [node],
        "cell",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(f"{name}_next", TensorProto.FLOAT, (1, B, H)) for name in state],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


class Contender(contenders.Contender):
    def describe(self) -> dict[str, Any]:
        return {"version": ort.__version__}

    def cell(self, case: CellCase) -> Step:
        x, state, weights = inputs.cell(case)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        session = ort.InferenceSession(model(case, weights), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for name, array in zip(("x", "h", "c"), (x, *state), strict=False):
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array[None]))
        out = [ort.OrtValue.ortvalue_from_numpy(np.zeros_like(array[None])) for array in state]
        for name, value in zip(("h_next", "c_next"), out, strict=False):
            binding.bind_ortvalue_output(name, value)
        return Step(
            "run(binding)",
            {"run": session.run_with_iobinding, "binding": binding},
            result=lambda: [value.numpy()[0] for value in out],
            variant="bound",
        )
