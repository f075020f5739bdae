"""Arrays of other libraries are parameters and gradients in place, without a copy."""

import numpy as np
import pytest
from fusedstep.optim import Adam, adam_step

from .methods import Mirror, assert_same_bits


class WithDlpack:
    """A tensor that other libraries see through DLPack alone."""

    def __init__(self, memory):
        self.memory = memory

    def __dlpack__(self, **options):
        return self.memory.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


class WithArray:
    """A tensor that other libraries see through __array__ alone."""

    def __init__(self, memory):
        self.memory = memory

    def __array__(self, dtype=None, copy=None):
        return self.memory


def torch_tensor(memory):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.from_numpy(memory)


def torch_parameter(memory):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.nn.Parameter(torch.from_numpy(memory))


FOREIGN = {"DLPack": WithDlpack, "__array__": WithArray, "torch": torch_tensor, "torch parameter": torch_parameter}


@pytest.mark.parametrize("library", FOREIGN)
@pytest.mark.parametrize("of_ours", [{"params"}, {"grads"}, {"params", "grads"}])
def test_steps_in_place(library, of_ours, method, dtype, rng):
    """Foreign parameters, foreign gradients, both; what is asked to be zeroed is zeroed there."""
    wrap = FOREIGN[library]
    memory = [rng.standard_normal(shape).astype(dtype) for shape in [(3, 4), (), (0,), (50,)]]
    grads = [rng.standard_normal(p.shape).astype(dtype) for p in memory]
    mirror = Mirror(method, memory)
    optimizer = method.optimizer([wrap(p) if "params" in of_ours else p for p in memory])
    for zero in (False, True):
        mirror.step(grads)
        optimizer.step([wrap(g) if "grads" in of_ours else g for g in grads], max_norm=1e9, zero_grads=zero)
    mirror.assert_equals(memory, optimizer)
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("library", FOREIGN)
def test_single_tensor_steps_in_place(library, rng):
    p, g = rng.standard_normal((2, 5))
    desired = p.copy()
    Adam(desired).step(g)
    Adam(FOREIGN[library](p)).step(FOREIGN[library](g))
    assert_same_bits(p, desired)


@pytest.mark.parametrize("library", FOREIGN)
def test_functional_form_steps_in_place(library, rng):
    wrap = FOREIGN[library]
    p, g = rng.standard_normal((2, 5))
    m, v, desired = np.zeros(5), np.zeros(5), p.copy()
    adam_step(desired, g, np.zeros(5), np.zeros(5), step=1)
    adam_step(*map(wrap, (p, g, m, v)), step=1)
    assert_same_bits(p, desired)
    assert m.all()


def test_trains_a_torch_module():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    x = torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    optimizer = Adam(dict(model.named_parameters()), lr=0.1)
    for _ in range(200):
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step({name: p.grad for name, p in model.named_parameters()}, zero_grads=True)
    assert loss < 1e-3
    assert all(not p.grad.any() for p in model.parameters())


def test_wrong_torch_tensors_are_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    p = torch.ones(3, 4)
    optimizer = Adam([p])
    before = p.clone()
    for wrong, error, message in [
        (torch.ones(4, 3).T, ValueError, r"grads\[0\]: expected a C-contiguous array"),
        (torch.ones(3, 4, dtype=torch.float64), TypeError, r"grads\[0\]: expected dtype float32, got float64"),
        (torch.ones(3, 4, dtype=torch.bfloat16), TypeError, r"grads\[0\]: expected a float32 or float64 array"),
        (torch.ones(3, 4, device="meta"), TypeError, r"grads\[0\]: .* in CPU memory, got Tensor on meta"),
        (torch.ones(3, 4).to_sparse(), TypeError, r"grads\[0\]: expected a float32 or float64 array"),
    ]:
        with pytest.raises(error, match=message):
            optimizer.step([wrong])
    with pytest.raises(TypeError, match=r"params\[0\]: .* got Tensor on meta"):
        Adam([torch.ones(3, device="meta")])
    assert torch.equal(p, before)
    assert optimizer.state[0]["step"] == 0


def test_immutable_tensors_are_refused_as_parameters_and_taken_as_gradients(dtype):
    """As jax's, which NumPy sees read-only."""
    memory = np.ones(3, dtype)
    memory.flags.writeable = False
    p = np.ones(3, dtype)
    assert Adam(p).step(WithArray(memory)).applied
    assert (p < 1).all()
    with pytest.raises(ValueError, match="params: expected a writeable array, got a read-only one"):
        Adam(WithArray(memory))
