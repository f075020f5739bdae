"""The functions lstm and gru: the modules' bits over arrays of the caller's."""

import numpy as np
import pytest
from fusedstep.rnn import gru, gru_backward, lstm, lstm_backward

from .cells import DTYPES, STATES, arrays_of, assert_same_bits, flat
from .sequences import MODULES, draw

FORMS = {
    "layer": {"reset": True},
    "no bias": {"bias": False},
    "layers and directions": {"num_layers": 2, "bidirectional": True, "shortest": 0},
}


def functions(kind):
    """The function of a kind, and its backward one, with the options that make it."""
    if "lstm" in kind:
        return lstm, lstm_backward, {"coupled": "coupled" in kind}
    return gru, gru_backward, {"reset_after": kind != "gru_reset_before"}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_functions_have_the_bits_of_the_modules(kind, dtype, form, tape):
    case = draw(kind, 5, 6, 7, 18, dtype, **FORMS[form])
    forward, backward, options = functions(kind)
    (x, state, lengths), keywords, gradients = case.arguments()
    noise = {"dropout": 0.25, "recurrent_dropout": 0.25, "zoneout": 0.25}
    y, new, kept = forward(x, state, case.weights, lengths, **keywords, **options, **noise, tape=tape, seed=3)
    results = flat(backward(kept, *gradients))
    results |= {"y": y, **dict(zip(STATES, arrays_of(new), strict=False))}
    assert_same_bits(results, case.run(case.module(**noise), seed=3))
    y, new = forward(x, state, case.weights, lengths, **keywords, **options)
    assert_same_bits([y, *arrays_of(new)], list(case.infer().values()))


@pytest.mark.parametrize("kind", MODULES)
def test_weights_are_used_as_they_are(kind):
    case = draw(kind, 3, 2, 5, 4)
    forward, backward, options = functions(kind)
    _, _, tape = forward(case.x, None, case.weights, **options, tape="full")
    for name, array in case.weights.items():
        assert tape._module.weights[name] is array
    sums = {name: np.ones_like(w) for name, w in case.weights.items()}
    once = backward(tape, case.dy).weights
    _, _, tape = forward(case.x, None, case.weights, **options, tape="full")
    backward(tape, case.dy, out=sums, accumulate=True)
    for name, gradient in once.items():
        np.testing.assert_allclose(sums[name], gradient + 1, rtol=1e-5, atol=1e-5)


def lacking(weights):
    return {name: w for name, w in weights.items() if name != "weight_hh_l0"}


REFUSED = {
    "a list": (lambda w: list(w.values()), TypeError, "weights: expected a mapping of names to arrays, got list"),
    "a missing weight": (lacking, ValueError, r"weights: expected weight_ih, weight_hh.*no \['weight_hh_l0'\]"),
    "another": (lambda w: w | {"weight_xx_l0": 0}, ValueError, r"weights: .* and also \['weight_xx_l0'\]"),
    "a shape": (lambda w: w | {"bias_ih_l0": np.zeros(3, "f")}, ValueError, r"weights\['bias_ih_l0'\]: expected shape"),
    "a dtype": (lambda w: w | {"bias_ih_l0": np.zeros(16)}, TypeError, r"weights\['bias_ih_l0'\]: expected dtype"),
    "apart": (lambda w: w | {"bias_ih_l0": np.zeros(32, "f")[::2]}, ValueError, "bias_ih: .*contiguous"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_weights_that_do_not_fit_are_refused(wrong):
    change, error, message = REFUSED[wrong]
    case = draw("lstm", 3, 2, 5, 4)
    with pytest.raises(error, match=message):
        lstm(case.x, None, change(case.weights))


def test_tape_of_the_other_kind_is_refused():
    case = draw("gru", 3, 2, 5, 4)
    *_, tape = gru(case.x, None, case.weights, tape="lean")
    with pytest.raises(TypeError, match=r"tape: expected a SequenceTape of LSTM, got GRU\("):
        lstm_backward(tape, case.dy)
    with pytest.raises(TypeError, match="tape: expected a SequenceTape of GRU, got dict"):
        gru_backward({}, case.dy)
    assert not tape.spent
