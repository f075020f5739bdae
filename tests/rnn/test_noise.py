"""Zoneout and recurrent dropout: masks of Philox by step, row and unit, and the mean of them in inference."""

import copy
import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from fusedstep.rnn import GRU, LSTM
from fusedstep.rnn.layer_norm import normalized
from fusedstep.rnn.lstm_cells import sigmoid

from .cells import DTYPES, STATES, arrays_of, assert_same_bits, error, structured
from .sequences import MODULES, draw, steps_of, thread_count
from .test_sequence_truth import finite_differences

kinds = pytest.mark.parametrize("kind", MODULES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

NOISES = {
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "zoneout": {"zoneout": 0.3},
    "both": {"recurrent_dropout": 0.25, "zoneout": 0.5},
}
noises = pytest.mark.parametrize("noise", NOISES)
EVERY_STEP = 2**32 - 1


def philox(counters, seed):
    """Philox4x32-10 of Salmon et al. 2011: counters (4, …) to words (4, …)."""
    words, key = [np.asarray(c, np.uint64) for c in counters], [seed & EVERY_STEP, seed >> 32]
    for _ in range(10):
        a, b = (np.uint64(m) * words[i] for m, i in ((0xD2511F53, 0), (0xCD9E8D57, 2)))
        low, high = np.uint64(2**32 - 1), np.uint64(32)
        words = [
            (b >> high) ^ words[1] ^ np.uint64(key[0]),
            b & low,
            (a >> high) ^ words[3] ^ np.uint64(key[1]),
            a & low,
        ]
        key = [(k + weyl) % 2**32 for k, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)]
    return words


def test_philox_gives_the_published_words():
    """Known answers of the authors' Random123."""
    assert [int(w) for w in philox([0] * 4, 0)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = philox([2**32 - 1] * 4, 2**64 - 1)
    assert [int(w) for w in ones] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def drawn(p, word, step, rows, H, layer, seed):
    """Which units of which rows are drawn with probability p."""
    row, unit = np.meshgrid(rows, np.arange(H), indexing="ij")
    words = philox([unit, row, np.full_like(row, step), np.full_like(row, 2**31 + 2 * layer)], seed)
    return words[word] < p * 2.0**32


def stays(p, state, step, rows, H, layer, seed):
    """Which units of a state zoneout keeps: two rows share a draw, of two words each."""
    even, odd = (drawn(p, word + state, step, np.asarray(rows) // 2, H, layer, seed) for word in (0, 2))
    return np.where(np.asarray(rows)[:, None] % 2, odd, even)


def gru_step(x, h, seen, w, reset_after):
    """A GRU step whose products see another h than its sum does."""
    H = h.shape[1]

    def product(v, n):
        a = v @ w[f"weight_{n}"].T
        if f"gain_{n}" in w:
            a = w[f"gain_{n}"] * np.concatenate([normalized(a[:, : 2 * H]), normalized(a[:, 2 * H :])], axis=1)
        return a + w.get(f"bias_{n}", 0)

    a, b = product(x, "ih"), product(seen, "hh")
    r, z = sigmoid(a[:, :H] + b[:, :H]), sigmoid(a[:, H : 2 * H] + b[:, H : 2 * H])
    late = b[:, 2 * H :]
    if not reset_after:
        late = (r * seen) @ w["weight_hh"][2 * H :].T + w.get("bias_hh", np.zeros(3 * H))[2 * H :]
    return ((1 - z) * np.tanh(a[:, 2 * H :] + (r * late if reset_after else late)) + z * h,)


def reference(case, seed, *, recurrent_dropout=0.0, zoneout=0.0, masks=True, origin=(0, 0)):
    """y and the states after, one direction, as the formulas read."""
    zoneout = zoneout if isinstance(zoneout, tuple) else (zoneout,) * 2
    (T, B, _), H, W, y = case.x.shape, case.hidden_size, case.width, case.x
    *_, step = steps_of(case.kind)
    rows, outs = origin[1] + np.arange(B), [s.copy() for s in case.states]
    for layer in range(case.num_layers):
        w, x, y = case.cell_weights(layer, 0), y, np.empty((T, B, W))
        state, mask = [s[layer] for s in case.states], np.ones((B, W))
        if masks:
            dropped = drawn(recurrent_dropout, 0, EVERY_STEP, rows, W, layer, seed)
            mask = np.where(dropped, 0, 1 / (1 - recurrent_dropout))
        for t in range(T):
            if case.reset is not None:
                state = [np.where(case.reset[t][:, None], 0, s) for s in state]
            h, *c = state
            after = case.kind != "gru_reset_before"
            new = step(x[t], (h * mask, *c), **w) if c else gru_step(x[t], h, h * mask, w, after)
            kept = [
                stays(z, i, origin[0] + t, rows, n, layer, seed) if masks else z
                for i, (z, n) in enumerate(zip(zoneout, (W, H), strict=True))
            ]
            state = [m * old + (1 - m) * s for m, old, s in zip(kept, state, new, strict=False)]
            y[t] = state[0]
        for out, s in zip(outs, state, strict=True):
            out[layer] = s
    return {"y": y, **dict(zip(STATES, outs, strict=False))}


def noise_of(kind, noise):
    """The options, with a zoneout of c other than that of h where there is a c."""
    options = dict(NOISES[noise])
    if "lstm" in kind and "zoneout" in options:
        options["zoneout"] = (options["zoneout"], 0.2)
    return options


def trained(case, seed=11, **options):
    """y and the state after of a forward call, by name."""
    (x, state, lengths), keywords, _ = case.arguments()
    y, state, _ = case.module(**options).forward(x, state, lengths, **keywords, seed=seed)
    return {"y": y, **dict(zip(STATES, arrays_of(state), strict=False))}


@kinds
@noises
@dtypes
def test_forward_equals_reference_with_masks(kind, noise, dtype):
    case = draw(kind, 6, 5, 7, 21, dtype, num_layers=2, reset=True)
    options = noise_of(kind, noise)
    actual, true = trained(case, 2**40 + 5, **options), reference(case.astype(np.float64), 2**40 + 5, **options)
    plain = case.infer()
    for name, array in true.items():
        assert error(actual[name], array) <= (1e-5 if dtype == np.float32 else 1e-13), name
        assert error(plain[name], array) > 0.01


@kinds
@noises
def test_inference_has_no_masks_and_the_mean_of_zoneout(kind, noise):
    case, options = draw(kind, 6, 5, 7, 21, np.float64, num_layers=2, reset=True), noise_of(kind, noise)
    module, true = case.module(**options), reference(case, 0, masks=False, **options)
    desired = case.infer(module)
    for name, array in true.items():
        assert error(desired[name], array) <= 1e-13, name
    assert_same_bits(case.infer(module.freeze()), desired)


@kinds
@dtypes
def test_stream_has_the_mean_of_zoneout(kind, dtype):
    case = draw(kind, 6, 3, 7, 21, dtype, num_layers=2).from_zeros()
    module = case.module(zoneout=0.3)
    stream = module.stream(batch=3)
    y = np.stack([stream.step(x_t) for x_t in case.x])
    desired = case.infer(module)
    assert_same_bits([y, *arrays_of(stream.state)], list(desired.values()))
    assert not np.array_equal(y, case.infer()["y"])


@kinds
@noises
@pytest.mark.parametrize("form", ["reset", "directions"])
def test_backward_matches_finite_difference(kind, noise, form):
    forms = {"reset": {"reset": True}, "directions": {"num_layers": 2, "bidirectional": True, "shortest": 1}}
    case = draw(kind, 4, 3, 2, 4, np.float64, **forms[form])
    module = case.module(**noise_of(kind, noise))
    actual = case.run(module, seed=11)
    lean = case.run(module, seed=11, tape="lean")
    for name, true in finite_differences(case, module, seed=11).items():
        assert error(actual[name], true) <= 1e-7, name
    assert_same_bits(lean, actual)


@kinds
@dtypes
def test_masks_do_not_depend_on_threads_tape_or_layout(kind, dtype):
    case = draw(kind, 5, 70, 9, 40, dtype, num_layers=2, bidirectional=True, shortest=0)
    options = {"dropout": 0.2, **NOISES["both"]}
    module, turned = (case.module(batch_first=first, **options) for first in (False, True))
    desired = case.run(module, seed=7)
    for n, tape in itertools.product((1, 2, 3), ("full", "lean")):
        with thread_count(n):
            assert_same_bits(case.run(module, seed=7, tape=tape), desired)
    assert_same_bits(case.run(turned, "batch first", seed=7), desired)


@kinds
def test_pieces_have_the_masks_of_the_whole(kind):
    case = draw(kind, 7, 9, 6, 20, num_layers=2)
    module = case.module(dropout=0.2, **NOISES["both"])
    whole = trained(case, 3, dropout=0.2, **NOISES["both"])
    y, _, _ = module.forward(case.x[:, 4:], structured([s[:, 4:] for s in case.states]), seed=3, origin=(0, 4))
    assert_same_bits([y], [whole["y"][:, 4:]])
    y_first, state, _ = module.forward(case.x[:3], structured(case.states), seed=3)
    y_second, state, _ = module.forward(case.x[3:], state, seed=3, origin=(3, 0))
    assert_same_bits([np.concatenate([y_first, y_second])], [whole["y"]])
    assert_same_bits(arrays_of(state), [whole[name] for name in STATES[: len(case.states)]])


def test_rows_sorted_by_length_keep_their_masks():
    case = draw("lstm", 6, 8, 5, 20)
    lengths = np.array([6, 1, 4, 6, 2, 5, 3, 6])
    whole, ragged = (trained(c, 3, **NOISES["both"])["y"] for c in (case, replace(case, lengths=lengths)))
    for row, n in enumerate(lengths):
        assert_same_bits([ragged[:n, row]], [whole[:n, row]])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_zoneout_keeps_units_at_its_rate(p):
    case = draw("gru", 40, 50, 3, 64)
    y = trained(case, 5, zoneout=p)["y"]
    kept = y[1:] == y[:-1]
    bound = 5 * np.sqrt(p * (1 - p))
    assert abs(kept.mean() - p) <= bound / np.sqrt(kept.size)
    for axis in range(3):
        spread = kept.mean(axis=tuple({0, 1, 2} - {axis}))
        assert np.abs(spread - p).max() <= bound / np.sqrt(kept.size / kept.shape[axis])


def test_layers_directions_and_states_have_masks_of_their_own():
    streams = [stays(0.5, state, 4, range(40), 64, layer, 9) for state, layer in itertools.product((0, 1), (0, 1))]
    for first, second in itertools.combinations(streams, 2):
        assert abs((first == second).mean() - 0.5) <= 5 * 0.5 / np.sqrt(first.size)
    case = draw("gru", 30, 40, 3, 64, bidirectional=True)
    y = trained(case, 5, zoneout=0.5)["y"]
    forward, backward = y[1:, :, :64] == y[:-1, :, :64], (y[:-1, :, 64:] == y[1:, :, 64:])[::-1]
    assert abs((forward == backward).mean() - 0.5) <= 5 * 0.5 / np.sqrt(forward.size)


def test_seed_is_drawn_where_none_is_given():
    module, x = LSTM(3, 8, recurrent_dropout=0.5, rng=0), np.ones((6, 2, 3), np.float32)
    assert not np.array_equal(module.forward(x)[0], module.forward(x)[0])


def test_options_are_kept():
    module = LSTM(3, 4, recurrent_dropout=0.25, zoneout=[0.5, 0], rng=0)
    assert module.zoneout == (0.5, 0.0)
    assert "recurrent_dropout=0.25, zoneout=(0.5, 0.0)" in repr(module)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert (other.recurrent_dropout, other.zoneout) == (0.25, (0.5, 0.0))


def test_options_are_saved(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed: no files to write")
    for module in (LSTM(3, 4, recurrent_dropout=0.25, zoneout=(0.5, 0.1)), GRU(3, 4, zoneout=0.5)):
        module.save(tmp_path / "m.safetensors")
        again = type(module).from_safetensors(tmp_path / "m.safetensors")
        assert (again.recurrent_dropout, again.zoneout) == (module.recurrent_dropout, module.zoneout)


REFUSED = {
    "recurrent_dropout of 1": (LSTM, {"recurrent_dropout": 1.0}, r"recurrent_dropout must be in \[0, 1\), got 1.0"),
    "recurrent_dropout of True": (LSTM, {"recurrent_dropout": True}, "recurrent_dropout must be a number, got True"),
    "zoneout below 0": (LSTM, {"zoneout": (0.1, -0.1)}, r"zoneout must be in \[0, 1\), got -0.1"),
    "zoneout of NaN": (GRU, {"zoneout": float("nan")}, r"zoneout must be in \[0, 1\), got nan"),
    "three zoneouts": (LSTM, {"zoneout": (0.1,) * 3}, r"zoneout must be a number or one for each of \(h, c\), got"),
    "zoneout of c in a GRU": (GRU, {"zoneout": (0.1, 0.1)}, r"zoneout must be a number, got \(0.1, 0.1\)"),
    "zoneout of text": (GRU, {"zoneout": "0.1"}, "zoneout must be a number, got '0.1'"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_option_that_does_not_fit_is_refused(wrong):
    cls, options, message = REFUSED[wrong]
    with pytest.raises((TypeError, ValueError), match=message):
        cls(3, 4, **options)


@pytest.mark.parametrize("origin", [3, (1,), (0, -1), (0, 2**31), (0.0, 0), (True, 0)], ids=str)
def test_origin_that_does_not_fit_is_refused(origin):
    with pytest.raises((TypeError, ValueError), match="origin: expected"):
        LSTM(3, 4).forward(np.ones((2, 1, 3), np.float32), origin=origin)
