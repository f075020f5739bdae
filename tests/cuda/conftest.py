"""What the tests of the CUDA side share: the launchers, an order of threads, a storage format."""

import os
import sys

import fusedstep
import pytest
from fusedstep import _device

from tests.cuda import launchers
from tests.cuda_host import build


def pytest_collection_modifyitems(items):
    """Skip, with a reason, what cannot be built here."""
    if reason := build.missing():
        for item in items:
            if "cuda" in item.path.parts and item.path.stem not in ("test_gpu", "test_machine_code"):
                item.add_marker(pytest.mark.skip(reason=f"CUDA on the host {reason}"))


@pytest.fixture(scope="session")
def kernels():
    """The launchers, of the variant that FUSEDSTEP_CUDA_HOST names."""
    return launchers.launchers(os.environ.get("FUSEDSTEP_CUDA_HOST", "plain"))


@pytest.fixture(params=["forward", "reverse", "random"])
def order(request, kernels):
    """An order of threads, and of blocks, undone afterwards."""
    kernels.order(request.param, 1)
    yield request.param
    kernels.order("forward")


@pytest.fixture(
    params=[("f32", False), ("f64", False), ("f16", False), ("bf16", False), ("f16", True), ("bf16", True)],
    ids=lambda stored: stored[0] + "-master" * stored[1],
)
def stored(request):
    """A storage format, and whether there is a float32 master copy."""
    return request.param


@pytest.fixture
def device(monkeypatch):
    """The module for CUDA arrays, built for the host, in its place."""
    from tests.cuda.host import host

    own = host()
    own.library.cuda_host_gpus(2)
    own.launches()
    monkeypatch.setitem(sys.modules, "fusedstep._cuda", own.module)
    monkeypatch.setattr(fusedstep, "_cuda", own.module, raising=False)
    yield own
    own.capturing(False)
    own.driver(True)


@pytest.fixture
def cupy(monkeypatch, device):
    """The stand-in for CuPy, in its place."""
    from tests.cuda import standin

    module = standin.module()
    module.state.place = device.place
    monkeypatch.setitem(sys.modules, "cupy", module)
    _device._modules.cache_clear()
    yield module
    _device._modules.cache_clear()
