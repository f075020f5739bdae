"""How calls reach the device: which modules are imported when, streams, graphs, and a machine without a driver."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from fusedstep import _device
from fusedstep.optim import Adam, adam_step

from tests.cuda.foreign import DLPack, Interface
from tests.optim.methods import draw

STREAM = 0x5EED0


def test_cuda_is_imported_for_cuda_arrays_alone():
    code = """
import sys
import numpy as np
import fusedstep
p, g = np.ones(3), np.ones(3)
opt = fusedstep.optim.Adam(p)
opt.step(g)
opt.load_state_dict(opt.state_dict())
fusedstep.optim.adam_step(p, g, np.zeros(3), np.zeros(3), step=1)
print(*({"cupy", "fusedstep._cuda"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    "obj", [np.ones(3), [1.0], 1.0, None, "text", DLPack(np.ones(3), device=(1, 0))], ids=lambda obj: type(obj).__name__
)
def test_what_is_not_in_cuda_memory(obj):
    assert not _device.is_cuda(obj)


def test_what_is_in_cuda_memory(cupy):
    for obj in (cupy.zeros(3), Interface(np.ones(3)), DLPack(np.ones(3)), DLPack(np.ones(3), device=(13, 0))):
        assert _device.is_cuda(obj)


def test_a_tensor_without_memory_is_not_in_cuda_memory():
    class Meta:
        def __dlpack_device__(self):
            raise ValueError("Unknown device type meta for Dlpack")

    assert not _device.is_cuda(Meta())
    with pytest.raises(TypeError, match=r"^params: expected a float32 or float64 array in CPU memory, got Meta$"):
        Adam(Meta())


def test_a_build_without_cuda_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "fusedstep._cuda", None)
    monkeypatch.delattr("fusedstep._cuda", raising=False)
    _device._modules.cache_clear()
    with pytest.raises(ImportError, match="built with CUDA; this build is without it"):
        Adam(Interface(np.ones(3)))


@pytest.mark.usefixtures("device")
def test_a_machine_without_cupy_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    _device._modules.cache_clear()
    with pytest.raises(ImportError, match=r"need CuPy: pip install 'fusedstep\[cuda13\]'"):
        Adam(Interface(np.ones(3)))


def test_a_machine_without_a_driver_says_so(cupy, device):
    device.driver(False)
    message = "no GPU can be used, or no driver for it is installed: CUDA driver version is insufficient"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            Adam(cupy.zeros(3))
    device.driver(True)
    Adam(cupy.zeros(3))


def test_a_refused_launch_is_an_error_with_cudas_text(cupy, device):
    opt = Adam(cupy.zeros(3))
    device.driver(False)
    with pytest.raises(RuntimeError, match="CUDA driver version is insufficient"):
        opt.step(cupy.zeros(3))


def arrays(cupy, seed=0):
    return [cupy.array(a) for a in draw(np.float32, [(5000,), (3,)], seed)]


def test_everything_goes_to_the_current_stream(cupy, device):
    with cupy.cuda.Stream(STREAM):
        opt = Adam(arrays(cupy), lr=0.1)
        opt.step(arrays(cupy, 1), max_norm=1.0, zero_grads=True)
        opt.lr = 0.2
        opt.load_state_dict(opt.state_dict())
        adam_step(*(cupy.zeros(3) for _ in range(4)), step=1)
    launches = device.launches()
    assert len(launches) > 8
    assert {launch.stream for launch in launches} == {STREAM}
    with cupy.cuda.Stream(STREAM + 16):
        opt.step(arrays(cupy, 1))
    opt.step(arrays(cupy, 1))
    assert [launch.stream for launch in device.launches()] == [STREAM + 16] * 2 + [0] * 2


def test_launches_are_on_the_arrays_gpu(cupy, device):
    with cupy.cuda.Device(1):
        opt = Adam(arrays(cupy))
        opt.step(arrays(cupy, 1), max_norm=1.0)
    assert {launch.gpu for launch in device.launches()} == {1}
    Adam(arrays(cupy)).step(arrays(cupy, 1))
    assert {launch.gpu for launch in device.launches()} == {0}


def test_a_step_is_few_launches(cupy, device):
    """Of many tensors in two groups: a preparation for each, and one update."""
    many = [cupy.zeros(4) for _ in range(20)]
    opt = Adam([{"params": many[:10]}, {"params": many[10:], "lr": 0.1}])
    device.launches()
    opt.step([cupy.zeros(4) for _ in range(20)])
    assert len(device.launches()) == 3
    opt.step([cupy.zeros(4) for _ in range(20)], check_finite=True)
    assert len(device.launches()) == 7  # and sums and their sum, once more for float64


def test_a_producers_stream_is_waited_for(cupy):
    opt = Adam(cupy.zeros(3))
    busy = Interface(np.ones(3), version=3, stream=0xB5D)
    with cupy.cuda.Stream(STREAM):
        opt.step(busy)
    assert cupy.state.waits == [(STREAM, 0xB5D)]
    opt.step(Interface(np.ones(3), version=3, stream=1))  # the default stream, as the current one is
    opt.step(Interface(np.ones(3), version=3, stream=None))
    assert len(cupy.state.waits) == 1


def test_dlpack_is_told_the_stream(cupy):
    opt, g = Adam(cupy.zeros(3)), DLPack(np.ones(3))
    opt.step(g)
    with cupy.cuda.Stream(STREAM):
        opt.step(g)
    assert g.streams == [1, STREAM]  # 1 is how DLPack calls the default one


def test_steps_wait_for_nothing(cupy):
    opt = Adam(arrays(cupy))
    opt.step(arrays(cupy, 1))
    opt.lr = 0.1
    opt.step(arrays(cupy, 1), max_norm=1.0, zero_grads=True)
    adam_step(*(cupy.zeros(3) for _ in range(4)), step=1)
    assert cupy.state.copies == 0
    assert opt.state[0]["step"] == 2
    assert cupy.state.copies == 1


@pytest.fixture
def allocated(cupy, monkeypatch):
    """The memory of each array made since, as weak references."""
    memory = []
    empty = cupy.empty

    def recorded(*arguments):
        array = empty(*arguments)
        memory.append(weakref.ref(array.data.mem))
        return array

    monkeypatch.setattr(cupy, "empty", recorded)
    return memory


def test_steps_allocate_nothing(cupy, allocated):
    """But for the results of a norm pass, which are the caller's."""
    opt, grads = Adam(arrays(cupy)), arrays(cupy, 1)
    allocated.clear()
    opt.step(grads)
    assert len(allocated) == 0
    info = opt.step(grads, max_norm=1.0)
    assert len(allocated) == 1
    del info
    assert allocated[0]() is None


def test_what_a_graph_names_stays(cupy, device, allocated):
    """A recorded step's results, and what a recorded functional step needs, lie in memory that no one else gets."""
    opt, grads = Adam(arrays(cupy)), arrays(cupy, 1)
    allocated.clear()
    p, g, m, v = (cupy.zeros(3) for _ in range(4))
    adam_step(p, g, m, v, step=1)
    device.capturing(True)
    opt.step(grads, max_norm=1.0)
    adam_step(p, g, m, v, step=1)
    assert [memory() is None for memory in allocated] == [True, False, False]
    del opt
    gc.collect()
    assert [memory() is None for memory in allocated] == [True, True, False]
