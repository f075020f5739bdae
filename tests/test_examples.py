"""The examples run and learn."""

import dataclasses

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: the examples' data is its own")

import numpy as np

from examples import bottleneck, digits


@pytest.mark.parametrize("cell", digits.CELLS)
def test_gradients_match_finite_difference(cell):
    """Through time, the linear layer and the loss: the slope along the gradient is its square norm."""
    training, _ = digits.Digits.load()
    batch = next(training.batches(16, np.random.default_rng(0)))
    model = digits.Classifier(digits.CELLS[cell], 12, seed=0)
    _, grads = model.gradients(batch)
    for name, p in model.params.items():
        before, losses = p.copy(), []
        epsilon = 1e-2 / np.linalg.norm(grads[name])
        for sign in (1, -1):
            p[...] = before + sign * epsilon * grads[name]
            losses.append(model.gradients(batch)[0])
        p[...] = before
        slope = (losses[0] - losses[1]) / (2 * epsilon)
        assert slope == pytest.approx(float(np.vdot(grads[name], grads[name])), rel=2e-2), name


@pytest.mark.parametrize("cell", digits.CELLS)
@pytest.mark.parametrize("optimizer", digits.OPTIMIZERS)
def test_digits_are_learnt(cell, optimizer):
    run = digits.train(cell, optimizer, epochs=4, hidden=32, seed=0, batch=32)
    assert run.losses[-1] < 0.85 * run.losses[0]
    assert run.accuracies[-1] > 0.3  # one of ten digits by chance
    again = digits.train(cell, optimizer, epochs=1, hidden=32, seed=0, batch=32)
    assert (again.losses[0], again.accuracies[0]) == (run.losses[0], run.accuracies[0])


def test_sets_are_fixed_and_apart():
    training, test = digits.Digits.load()
    assert len(training.labels) + len(test.labels) == 1797
    assert len(test.labels) == digits.TEST
    assert training.images.shape[1:] == (digits.STEPS, digits.PIXELS)
    again, _ = digits.Digits.load()
    np.testing.assert_array_equal(again.images, training.images)


def test_command_prints_every_run_and_draws(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing draws")
    picture = tmp_path / "curves.png"
    digits.main(["--epochs", "1", "--hidden", "8", "--batch", "64", "--plot", str(picture)])
    printed = capsys.readouterr().out
    for name in (*digits.CELLS, *digits.OPTIMIZERS):
        assert name in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("option", "value"), [("--epochs", 0), ("--hidden", 0), ("--batch", 0), ("--batch", 1438)])
def test_command_refuses_sizes_out_of_range(option, value, capsys):
    with pytest.raises(SystemExit):
        digits.main([option, str(value)])
    error = capsys.readouterr().err
    assert f"{option} must be from 1 to" in error
    assert f"got {value}" in error


# The slow loop.

WAYS = [bottleneck.Way(), *(bottleneck.Way(**{f.name: True}) for f in dataclasses.fields(bottleneck.Way))]


def test_every_way_computes_the_same():
    training, test = digits.Digits.load()
    batch = next(training.batches(16, np.random.default_rng(0)))
    expected = None
    for way in WAYS:
        model = bottleneck.Classifier(way, 12, seed=0)
        own = digits.Digits(batch.images.astype(model.dtype), batch.labels)
        value, grads = model.gradients(own)
        model.step(grads)
        images = test.images[:20].astype(model.dtype)
        found = [value, *(grads[name] for name in model.params), *model.params.values(), model.last_states(images)]
        expected = expected or found
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, 1e-3, 1e-5, err_msg=str(way))


def test_advice_is_taken_until_no_remedy_is_left():
    small = {"epochs": 1, "hidden": 8, "batch": 8, "seed": 0}
    seen = []
    stages = bottleneck.improve(**small, on_stage=seen.append)
    assert seen == stages
    assert stages[0].way == bottleneck.Way()
    changes = [sum(dataclasses.astuple(stage.way)) for stage in stages]
    assert changes == list(range(len(stages)))
    assert len(stages) >= 4  # what the machine is, and how busy, decides on the rest
    assert stages[-1].way.whole_sequences
    assert bottleneck.remedy(stages[-1]) is None or len(stages) == 1 + len(WAYS) - 1
    assert all(stage.loss == pytest.approx(stages[0].loss, rel=1e-3) for stage in stages)
    for word, (name, _) in bottleneck.REMEDIES.items():
        assert hasattr(bottleneck.Way(), name), word


def test_bottleneck_command_prints_profiles_and_the_stages(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing draws")
    picture = tmp_path / "roofline.png"
    bottleneck.main(["--epochs", "1", "--hidden", "8", "--batch", "64", "--roofline", str(picture)])
    printed = capsys.readouterr().out
    for words in ("as written", "lstm cell backward", "What would help", "× at first", "rnn.LSTM in training"):
        assert words in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        bottleneck.main(["--epochs", "0"])
    assert "--epochs must be at least 1, got 0" in capsys.readouterr().err


@pytest.fixture(scope="module")
def forecast():
    pytest.importorskip("statsmodels", reason="statsmodels is not installed: the series are its own")
    from examples import forecast

    return forecast


NETWORKS, SERIES = ("stacked GRU", "peephole LSTM"), ("sunspots", "CO2")


@pytest.mark.parametrize("name", NETWORKS)
def test_forecast_gradients_match_finite_difference(forecast, name):
    """Through time, dropout of one seed and the linear layer: the slope along the gradient is its square norm."""
    series = forecast.Series.load()["sunspots"]
    windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(series.z, 21)[:16].T)
    network = forecast.Network(forecast.NETWORKS[name][0], seed=0)
    _, grads = network.gradients(windows, seed=5)
    assert grads.keys() == network.params.keys()
    for key, p in network.params.items():
        before, losses = p.copy(), []
        epsilon = 1e-2 / np.linalg.norm(grads[key])
        for sign in (1, -1):
            p[...] = before + sign * epsilon * grads[key]
            losses.append(network.gradients(windows, seed=5)[0])
        p[...] = before
        slope = (losses[0] - losses[1]) / (2 * epsilon)
        assert slope == pytest.approx(float(np.vdot(grads[key], grads[key])), rel=2e-2), key


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_forecast_learns_and_streams_what_the_module_runs(forecast, name, series):
    series = forecast.Series.load()[series]
    training = forecast.train(name, series, epochs=12, seed=0)
    assert training.losses[-1] < 0.85 * training.losses[0]
    network = training.network
    assert network.validation_loss(series) == min(training.validation)

    h, states = network.stream(series)
    y, state = network.module(series.z[:, None])
    np.testing.assert_array_equal(h, y)
    for kept, last in zip(states, state if isinstance(state, tuple) else (state,), strict=True):
        np.testing.assert_array_equal(kept[-1], last)

    origin = series.origins[:1]
    z = series.z[: origin[0] + 1]
    for _ in range(series.horizon):  # the whole sequence again for every step
        y, _ = network.module(z[:, None])
        z = np.append(z, network.read(y[-1], z[-1]))
    expected = series.restore(z[None, -series.horizon :], origin)
    np.testing.assert_allclose(network.paths(series, series.origins)[:1], expected, rtol=1e-3)

    again = forecast.train(name, series, epochs=1, seed=0)
    assert (again.losses[0], again.validation[0]) == (training.losses[0], training.validation[0])


@pytest.mark.parametrize("series", SERIES)
def test_forecasts_see_nothing_ahead(forecast, series):
    """What comes after an origin, and for the scale after the training part, changes nothing."""
    series = forecast.Series.load()[series]
    models = [forecast.LastValue(), forecast.SeasonBefore(), forecast.Autoregression(series)]
    models += [forecast.Network(new, seed=0) for new, _ in forecast.NETWORKS.values()]
    changed = dataclasses.replace(series, values=series.values.copy())
    changed.values[series.test :] *= 1.5
    assert changed.scale == series.scale
    for model in models:
        paths = model.paths(series, series.origins)
        assert paths.shape == (len(series.values) - series.test, series.horizon)
        np.testing.assert_array_equal(model.paths(changed, series.origins)[0], paths[0])
    assert forecast.Autoregression(changed).lags == models[2].lags


@pytest.mark.parametrize("series", SERIES)
def test_truth_has_no_error_and_parts_are_apart(forecast, series):
    series = forecast.Series.load()[series]
    assert np.isfinite(series.values).all()
    assert forecast.WINDOW < series.validation < series.test < len(series.values)
    ahead = series.origins[:, None] + 1 + np.arange(series.horizon)
    past_the_end = ahead >= len(series.values)
    ahead[past_the_end] = 0
    truth = np.where(past_the_end, -1e9, series.values[ahead])
    assert series.rmse(truth, series.origins) == 0
    assert series.rmse(truth + 2, series.origins) == pytest.approx(2)
    last = series.origins[:1]
    np.testing.assert_allclose(
        series.restore(series.z[last[0] + 1 :][None, :5], last)[0], series.values[ahead[0, :5]], 1e-3
    )


def test_forecast_command_prints_every_forecast_and_draws(forecast, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing draws")
    picture = tmp_path / "forecast.png"
    forecast.main(["--smoke", "--plot", str(picture)])
    printed = capsys.readouterr().out
    for name in (*NETWORKS, "last value", "11 years before", "12 months before", "linear", "bit for bit"):
        assert name in " ".join(printed.split())
    assert picture.read_bytes().startswith(b"\x89PNG")
