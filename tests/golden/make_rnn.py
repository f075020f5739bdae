"""Make rnn.npz: what torch, ONNX Runtime and Keras compute for small LSTMs and GRUs, with the weights in their forms.

`python tests/golden/make_rnn.py`, with jax, keras, onnx, onnxruntime and torch. An entry is called after system, kind,
form and array; the file keeps the versions. Keras runs on jax.
"""

import importlib
import os
import sys
from pathlib import Path

import numpy as np

os.environ["KERAS_BACKEND"] = "jax"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import keras  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from rnn import test_formats as formats  # noqa: E402


def torch_arrays(kind, form):
    """A state dict, x, and what torch makes of it."""
    module, x = formats.torch_module(torch, kind, form), formats.draw_form(kind, form).x
    with torch.no_grad():
        y, state = module(torch.from_numpy(x))
    states = dict(zip("hc", state if kind == "lstm" else [state], strict=False))
    return {"x": x} | {name: t.numpy() for name, t in {**module.state_dict(), "y": y, **states}.items()}


def onnx_arrays(kind, form):
    """W, R, B and P, x, and what ONNX Runtime makes of it."""
    case = formats.draw_form(kind, form).from_zeros()
    results = formats.run_onnx(onnxruntime, formats.onnx_model(onnx, case), case)
    return {"x": case.x, **formats.onnx_arrays(case), **results}


def keras_arrays(kind, form):
    """The list of get_weights by its indices, x batch first, and what Keras makes of it."""
    case = formats.draw_form(kind, form)
    options = {"return_sequences": True, "return_state": True, "use_bias": form != "no bias"}
    options |= {} if kind == "lstm" else {"reset_after": kind == "gru"}
    make = {"lstm": keras.layers.LSTM}.get(kind, keras.layers.GRU)
    rng = np.random.default_rng(0)
    y, weights, finals = case.x.swapaxes(0, 1), [], []
    x = y
    for _ in range(case.num_layers):
        layer = make(case.hidden_size, **options)
        layer = keras.layers.Bidirectional(layer) if case.bidirectional else layer
        layer.build(y.shape)
        drawn = [rng.normal(size=array.shape).astype(np.float32) for array in layer.get_weights()]
        layer.set_weights(drawn)
        y, *states = map(np.asarray, layer(y))
        weights += drawn
        finals += states
    names = "hc" if kind == "lstm" else "h"
    stacked = {name: np.stack(finals[i :: len(names)]) for i, name in enumerate(names)}
    return {"x": x, "y": y, **stacked, **{f"{i:02}": array for i, array in enumerate(weights)}}


def main():
    names = ("jax", "keras", "onnx", "onnxruntime", "torch")
    entries = {"versions": {name: np.array(importlib.import_module(name).__version__) for name in names}}
    for kind in formats.GOLDEN_KINDS:
        if kind in ("lstm", "gru"):
            entries |= {f"torch/{kind}/{form}": torch_arrays(kind, form) for form in formats.FORMS}
        if kind != "peephole_lstm":
            entries |= {f"keras/{kind}/{form}": keras_arrays(kind, form) for form in formats.KERAS_FORMS}
        entries |= {f"onnxruntime/{kind}/{form}": onnx_arrays(kind, form) for form in formats.ONNX_FORMS}
    arrays = {f"{entry}/{name}": array for entry, own in entries.items() for name, array in own.items()}
    np.savez_compressed(HERE / "rnn.npz", **arrays)


if __name__ == "__main__":
    main()
