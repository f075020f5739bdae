"""What optimizers over CUDA arrays take and refuse: foreign arrays, wrong ones, mixed places."""

import contextlib
import re

import numpy as np
import pytest
from fusedstep.optim import Adam, adam_step

from tests.cuda.foreign import DLPack, Interface, Torch, bfloat16, from_bfloat16, to_bfloat16
from tests.optim.methods import assert_same_bits, draw

KINDS = "float32, float64, float16 or bfloat16 array"


@contextlib.contextmanager
def refused(error, message, *arrays):
    """The body raises `error` with that message and changes no byte of the arrays."""
    before = [a.get().tobytes() for a in arrays]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        yield
    assert [a.get().tobytes() for a in arrays] == before


def read_only(array):
    array.flags.writeable = False
    return array


FOREIGN = {
    "interface": Interface,
    "torch": Torch,
    "dlpack": DLPack,
    "old dlpack": lambda host: DLPack(host, versioned=False),
    "managed": lambda host: DLPack(host, device=(13, 0)),
}


@pytest.mark.parametrize("export", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.usefixtures("cupy")
def test_arrays_of_other_libraries_are_updated_in_place(export, dtype):
    p, g = (a.astype(dtype) for a in draw(np.float32, [(6, 5), (6, 5)]))
    mirror = p.astype(np.float32 if dtype == np.float16 else dtype)
    reference, opt = Adam(mirror), Adam({"w": export(p)})
    reference.step(g.astype(mirror.dtype), max_norm=1.0)
    opt.step({"w": export(g)}, max_norm=1.0)
    assert_same_bits(p, mirror.astype(dtype))


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.usefixtures("cupy")
def test_bfloat16_by_dlpack(versioned):
    bits = [to_bfloat16(a) for a in draw(np.float32, [(9,), (9,)])]
    mirror = from_bfloat16(bits[0])
    Adam(mirror).step(from_bfloat16(bits[1]))
    p, g = (DLPack(a, versioned=versioned, code=4) for a in bits)
    Adam(p, master=True).step(g)
    assert_same_bits(bits[0], to_bfloat16(mirror))


def test_strides_of_what_has_one_element_do_not_count(cupy):
    host = np.ones((1, 4), np.float32)
    opt = Adam(Interface(host, strides=(4, 4)))
    opt.step(Interface(np.ones((1, 4), np.float32), strides=(400, 4)))
    empty = Interface(np.ones((0, 4), np.float32), strides=(1, 1))
    Adam([empty, cupy.empty((2,), np.float32)]).step([empty, cupy.zeros((2,), np.float32)])
    assert (host < 1).all()


WRONG = {
    "strides": (
        lambda: Interface(np.ones((5, 2), np.float32)[:, 0]),
        ValueError,
        "expected a C-contiguous array, got shape (5,) with strides (8,)",
    ),
    "dlpack strides": (
        lambda: DLPack(np.ones((5, 2), np.float32)[:, 0]),
        ValueError,
        "expected a C-contiguous array, got shape (5,) with strides (8,)",
    ),
    "dtype": (lambda: Interface(np.ones(5, np.int32)), TypeError, f"expected a {KINDS}, got dtype int32"),
    "raw bytes": (lambda: Interface(np.ones(5, "V2")), TypeError, f"expected a {KINDS}, got dtype |V2"),
    "dlpack dtype": (
        lambda: DLPack(np.ones(5, np.int64)),
        TypeError,
        f"expected a {KINDS}, got dtype of DLPack code 0 with 64 bits",
    ),
    "misaligned": (
        lambda: Interface(np.frombuffer(bytearray(21), np.uint8)[1:].view(np.float32)),
        ValueError,
        "expected elements aligned to their size, got a misaligned array",
    ),
    "version": (
        lambda: Interface(np.ones(5, np.float32), version=1),
        TypeError,
        "expected __cuda_array_interface__ of version 2 or 3, got 1",
    ),
    "no shape": (
        lambda: Interface(np.ones(5, np.float32), shape=None),
        TypeError,
        "expected __cuda_array_interface__ with 'shape'",
    ),
    "mask": (lambda: Interface(np.ones(5, np.float32), mask=1), TypeError, "expected an array without a mask"),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arrays(cupy, make, error, message):
    p = cupy.zeros(5, np.float32)
    with refused(error, f"params[0]: {message}"):
        Adam([make()])
    opt = Adam([p, cupy.zeros(5, np.float32)])
    with refused(error, f"grads[1]: {message}", p):
        opt.step([cupy.zeros(5, np.float32), make()])
    with refused(error, f"g: {message}", p):
        adam_step(p, make(), cupy.zeros(5, np.float32), cupy.zeros(5, np.float32), step=1)


def test_an_interface_that_is_no_dict(cupy):
    wrong = type("Wrong", (), {"__cuda_array_interface__": 3})()
    p = cupy.zeros(5, np.float32)
    with refused(TypeError, "grads: expected __cuda_array_interface__ to be a dict, got 3", p):
        Adam(p).step(wrong)


READ_ONLY = {
    "interface": lambda: Interface(read_only(np.ones(5, np.float32))),
    "dlpack": lambda: DLPack(read_only(np.ones(5, np.float32))),
}


@pytest.mark.parametrize("make", READ_ONLY.values(), ids=READ_ONLY)
def test_read_only_arrays(cupy, make):
    rule = "expected a writeable array, got a read-only one"
    with refused(ValueError, f"params['w']: {rule}"):
        Adam({"w": make()})
    p = cupy.zeros(5, np.float32)
    opt = Adam({"w": p})
    with refused(ValueError, f"grads['w']: {rule}", p):
        opt.step({"w": make()}, zero_grads=True)
    opt.step({"w": make()})


def test_gradients_like_their_parameters(cupy):
    p = [cupy.zeros((3, 4), np.float32), cupy.zeros(2, np.float16)]
    opt = Adam(p)
    with refused(ValueError, "grads[0]: expected shape (3, 4), got (4, 3)", *p):
        opt.step([cupy.zeros((4, 3), np.float32), cupy.zeros(2, np.float16)])
    with refused(TypeError, "grads[1]: expected dtype float16, got float32", *p):
        opt.step([cupy.zeros((3, 4), np.float32), cupy.zeros(2, np.float32)])
    with refused(TypeError, "grads[1]: expected dtype float16, got bfloat16", *p):
        opt.step([cupy.zeros((3, 4), np.float32), bfloat16(np.zeros(2, np.uint16))])
    with refused(ValueError, "grads: expected 2 arrays, got 1", *p):
        opt.step([p[0]])
    with refused(TypeError, "grads: expected a list or tuple with an array per parameter, got ndarray", *p):
        opt.step(p[0])
    assert [own["step"] for own in opt.state] == [0, 0]


def test_options_are_checked(cupy):
    p = cupy.zeros(3, np.float32)
    opt, g = Adam(p), cupy.array(np.ones(3, np.float32))
    for options, error, message in (
        ({"max_norm": 0.0}, ValueError, "max_norm must be > 0, got 0.0"),
        ({"max_norm": True}, TypeError, "max_norm: expected a number, got True"),
        ({"grad_scale": -1.0}, ValueError, "grad_scale must be positive and finite, got -1.0"),
    ):
        with refused(error, message, p):
            opt.step(g, **options)
    with pytest.raises(ValueError, match=r"^beta1 must be in \[0, 1\), got 1$"):
        opt.betas = (1, 0.9)
    with pytest.raises(ValueError, match=r"^master decides the states at construction: it was False then, got True$"):
        opt.master = True


def test_memory_is_not_shared(cupy):
    whole = cupy.zeros(10, np.float32)
    with refused(ValueError, "params[1]: expected memory of its own, got an overlap with params[0]", whole):
        Adam([whole[:6], whole[5:]])
    opt = Adam([whole[:5], cupy.zeros(5, np.float32)])
    for shared in (whole[3:8], opt.state[0]["exp_avg"]):
        message = "grads[1]: expected memory of its own, got an overlap with a parameter or a state"
        with refused(ValueError, message, whole):
            opt.step([cupy.zeros(5, np.float32), shared])
    g = cupy.zeros(5, np.float32)
    message = "grads[1]: with zero_grads expected memory of its own, got an overlap with grads[0]"
    with refused(ValueError, message, whole):
        opt.step([g, g], zero_grads=True)
    opt.step([g, g])
    p, m, v = (cupy.zeros(5, np.float32) for _ in range(3))
    with refused(ValueError, "v: expected memory of its own, got an overlap with m", p):
        adam_step(p, g, m, m, step=1)
    half = cupy.zeros(5, np.float16)
    opt = Adam(half, master=True)
    with refused(ValueError, "grads: expected memory of its own, got an overlap with a parameter or a state"):
        opt.step(opt.state[0]["master"].view(np.float16)[:5])
    del v


def test_a_gradient_is_looked_at_again_after_a_refusal(cupy):
    """A step that was refused for one gradient has not settled that the others lie apart."""
    whole = cupy.zeros(10, np.float32)
    opt = Adam([whole[:5], whole[5:]])
    good, shared = cupy.zeros(5, np.float32), whole[2:7]
    opt.step([good, good])
    with pytest.raises(ValueError, match="expected shape"):
        opt.step([shared, cupy.zeros(4, np.float32)])
    with refused(ValueError, "grads[0]: expected memory of its own, got an overlap with a parameter or a state", whole):
        opt.step([shared, good])


def test_places_are_not_mixed(cupy):
    here, there = np.ones(5, np.float32), cupy.array(np.ones(5, np.float32))
    with refused(TypeError, "params[0]: expected an array in CUDA memory as params[1] is, got ndarray on cpu", there):
        Adam([here, there])
    with refused(TypeError, "params['b']: expected an array in CUDA memory as params['a'] is, got ndarray on cpu"):
        Adam({"a": there, "b": here})
    with refused(TypeError, f"grads: expected a {KINDS} in CUDA memory, got ndarray on cpu", there):
        Adam(there).step(here)
    with refused(
        TypeError, "grads[0]: expected a float32 or float64 array in CPU memory, got ndarray on <CUDA Device 0>"
    ):
        Adam([here]).step([there])
    with refused(TypeError, "g: expected an array in CUDA memory as p is, got ndarray on cpu", there):
        adam_step(there, here, there, there, step=1)
    on_cpu = DLPack(here, device=(1, 0))
    with refused(TypeError, f"grads: expected a {KINDS} in CUDA memory, got DLPack on (1, 0)", there):
        Adam(there).step(on_cpu)
    with refused(TypeError, f"grads: expected a {KINDS} in CUDA memory, got float", there):
        Adam(there).step([1.0])
    with refused(ValueError, "master: expected float16 or bfloat16 arrays in CUDA memory, got params[0] in CPU memory"):
        Adam([here], master=True)


def test_gpus_are_not_mixed(cupy):
    here = cupy.array(np.ones(5, np.float32))
    with cupy.cuda.Device(1):
        there = cupy.array(np.ones(5, np.float32))
    foreign = Interface(np.ones(5, np.float32), data=(there.data.ptr, False))
    for other in (there, foreign):
        with refused(TypeError, "params[1]: expected an array on GPU 0 as params[0] is, got one on GPU 1", here):
            Adam([here, other])
        opt = Adam({"w": here})
        message = "grads['w']: expected an array on GPU 0, where the parameters are, got one on GPU 1"
        for _ in range(2):
            with refused(TypeError, message, here):
                opt.step({"w": other})
        with refused(TypeError, "v: expected an array on GPU 0 as p is, got one on GPU 1", here):
            adam_step(here, here, here, other, step=1)
    assert [own["step"] for own in opt.state] == [0]


def test_the_current_device_is_the_arrays(cupy):
    message = "the arrays are on GPU 1, and CuPy's current device is 0: call within `with cupy.cuda.Device(1):`"
    with cupy.cuda.Device(1):
        p = cupy.array(np.ones(5, np.float32))
        opt = Adam(p)
        opt.step(p.copy())
        saved = opt.state_dict()
    before = p.get()
    with refused(RuntimeError, message, p):
        opt.step(p)
    with refused(RuntimeError, message, p):
        Adam(p)
    with refused(RuntimeError, message, p):
        opt.lr = 0.5
    assert opt.lr == 1e-3
    with refused(RuntimeError, message, p):
        opt.load_state_dict(saved)
    with refused(RuntimeError, message, p):
        adam_step(p, p, p, p, step=1)
    assert_same_bits(p.get(), before)
