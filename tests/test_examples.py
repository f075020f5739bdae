"""The examples run and learn."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: the examples' data is its own")

import numpy as np

from examples import digits


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
