"""Views of other libraries' arrays share memory or are refused, and constructors' checks name what they refuse."""

import array
import re

import numpy as np
import pytest
from fusedstep._array import check_apart, parameter, view


class Exporter:
    """An array of another library: what it exports is set from outside."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class WithArray:
    def __init__(self, memory):
        self.memory = memory

    def __array__(self, dtype=None, copy=None):
        return self.memory


class WithDlpack:
    def __init__(self, memory):
        self.memory = memory

    def __dlpack__(self, **options):
        return self.memory.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


class OnDevice(WithDlpack):
    """As a library with GPU arrays behaves where NumPy asks for one."""

    device = "gpu:0"

    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion to a host array is not allowed")

    def __dlpack__(self, **options):
        raise BufferError("cannot export to the CPU")


class Detached:
    """As torch's parameters: exported only once they are detached from the graph."""

    def __init__(self, memory):
        self.memory = memory

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("requires grad")

    def detach(self):
        return WithArray(self.memory)


class Copied:
    def __array__(self, dtype=None, copy=None):
        return np.ones(3)


EXPORTERS = {
    "array interface": lambda memory: Exporter(__array_interface__=memory.__array_interface__, keep=memory),
    "__array__": WithArray,
    "DLPack": WithDlpack,
    "detach": Detached,
    "buffer": memoryview,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3)])
@pytest.mark.parametrize("how", EXPORTERS)
def test_view_shares_memory(how, shape, dtype):
    memory = np.ones(shape, dtype)
    seen = view(EXPORTERS[how](memory), "x")
    assert (seen.shape, seen.dtype) == (memory.shape, memory.dtype)
    assert seen.flags.writeable
    seen[...] = 7
    assert (memory == 7).all()


def test_view_of_ndarray_is_itself():
    """So that its flags are seen too, as when a cell freezes its weights."""
    memory = np.ones(3)
    assert view(memory, "x") is memory


def test_view_of_array_array():
    memory = array.array("d", [1.0, 2.0])
    view(memory, "x")[0] = 5
    assert memory[0] == 5


def test_view_of_torch_tensors():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for tensor in (torch.ones(3), torch.nn.Parameter(torch.ones(3, dtype=torch.float64)), torch.ones(4, 4).T):
        seen = view(tensor, "x")
        assert seen.shape == tuple(tensor.shape)
        seen[...] = 7
        assert bool((tensor == 7).all())
    with pytest.raises(TypeError, match=r"^x: expected a float32 or float64 array in CPU memory, got Tensor on meta$"):
        view(torch.ones(3, device="meta"), "x")


@pytest.mark.parametrize(
    ("obj", "described"),
    [
        ([1.0], "list"),
        ((1.0,), "tuple"),
        ({}, "dict"),
        ({1.0}, "set"),
        (range(3), "range"),
        (1.0, "float"),
        (None, "NoneType"),
        ("1.0", "str"),
        (b"1234", "bytes"),
        (np.float64(1), "float64"),
        (object(), "object"),
        (Copied(), "Copied"),
        (OnDevice(np.ones(3)), "OnDevice on gpu:0"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_view_refuses_what_is_no_array_or_a_copy(obj, described):
    message = f"grads[3]: expected a float32 or float64 array in CPU memory, got {described}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        view(obj, "grads[3]")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.ones(3, np.float16), TypeError, "w: expected a float32 or float64 array, got dtype float16"),
        (np.ones(3, int), TypeError, "w: expected a float32 or float64 array, got dtype int64"),
        (np.ones(3, ">f8"), TypeError, "w: expected a float32 or float64 array, got dtype >f8"),
        (np.ones(3, object), TypeError, "w: expected a float32 or float64 array, got dtype object"),
        (np.ones((3, 4)).T, ValueError, "w: expected a C-contiguous array, got shape (4, 3) with strides (8, 32)"),
        (np.ones(6)[::2], ValueError, "w: expected a C-contiguous array, got shape (3,) with strides (16,)"),
        (np.frombuffer(bytearray(25), np.uint8)[1:].view(float), ValueError, "w: expected elements aligned"),
        (np.broadcast_to(np.ones(1), 1), ValueError, "w: expected a writeable array, got a read-only one"),
    ],
)
def test_parameter_refuses(wrong, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        parameter(wrong, "w")


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_parameter_returns_the_array(shape):
    memory = np.ones(shape, np.float32)
    assert parameter(memory, "w") is memory


def test_check_apart_names_the_arrays_that_overlap():
    memory = np.ones(10)
    check_apart([memory[:5], memory[5:], memory[5:5], np.ones(3)], str)
    with pytest.raises(ValueError, match=r"^2: expected memory of its own, got an overlap with 0$"):
        check_apart([memory[:5], np.ones(3), memory[4:]], str)
    with pytest.raises(ValueError, match="expected memory of its own"):
        check_apart([memory[2:3], memory], str)
