"""As much of CuPy as fusedstep uses, over memory of the host: arrays, streams and devices without a GPU.

Arrays refuse what CuPy's refuse (NumPy's arrays as operands, turning into one unasked). A stream is a name. What lies
on GPU 1 is decided by which device was current at its allocation.
"""

import ctypes
import sys
import time
import types

import numpy as np

from tests.cuda import elementwise, foreign

_ALIGNMENT = 512  # bytes, as CuPy's pool


class _State:
    """Current device, and the current stream of each."""

    def __init__(self):
        self.device = 0
        self.streams = {}
        self.waits = []  # (waiting stream, stream it waits for)
        self.elsewhere = {}  # address of an allocation on another GPU: its size and number
        self.place = None  # tells CUDA's runtime where an allocation is: (address, nbytes, GPU)
        self.copies = 0  # of arrays to the CPU, each of which waits for the GPU
        self.event_waits = 0  # for events
        self.late = False  # whether events are done only when something waits for them or for later ones
        self.unfinished = []


state = _State()


class Stream:
    null = None

    def __init__(self, ptr=0, *, non_blocking=False):
        self.ptr = ptr
        self.own = non_blocking  # and has nothing to do

    def __enter__(self):
        self.before = get_current_stream()
        state.streams[state.device] = self
        return self

    def __exit__(self, *error):
        state.streams[state.device] = self.before

    def use(self):
        state.streams[state.device] = self
        return self

    def record(self):
        return self.ptr

    def wait_event(self, event):
        state.waits.append((self.ptr, event))

    def synchronize(self):
        pass


Stream.null = Stream()


def get_current_stream():
    return state.streams.get(state.device, Stream.null)


class Event:
    """A moment of the host's clock, as work is done when its call returns."""

    def __init__(self):
        self.device, self.at, self.done = state.device, None, True

    def record(self, stream=None):
        assert state.device == self.device
        self.at, self.done = time.perf_counter(), not state.late or bool(stream and stream.own)
        state.unfinished += [] if self.done else [self]

    def synchronize(self):
        state.event_waits += 1
        for event in state.unfinished:
            event.done = event.done or event.at <= self.at
        state.unfinished = [event for event in state.unfinished if not event.done]


def get_elapsed_time(begin, end):
    assert begin.device == end.device
    if not (begin.done and end.done):
        raise RuntimeError("cudaErrorNotReady: device not ready")
    return (end.at - begin.at) * 1e3


class Device:
    def __init__(self, number=None):
        self.id = state.device if number is None else number

    def __enter__(self):
        self.before, state.device = state.device, self.id
        return self

    def __exit__(self, *error):
        state.device = self.before

    def use(self):
        state.device = self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


def _number_at(address):
    for begin, (size, number) in state.elsewhere.items():
        if begin <= address < begin + size:
            return number
    return 0


class _Memory:
    """An allocation."""

    def __init__(self, nbytes):
        self.bytes = np.full(nbytes + _ALIGNMENT, 0xFF, np.uint8)  # NaN in every format
        self.ptr = self.bytes.ctypes.data + -self.bytes.ctypes.data % _ALIGNMENT
        self.size = nbytes
        self.place = state.place if state.device else None
        if self.place:
            state.elsewhere[self.ptr] = (nbytes, state.device)
            self.place(self.ptr, nbytes, state.device)

    def __del__(self):
        if self.place:
            state.elsewhere.pop(self.ptr, None)
            self.place(self.ptr, self.size, 0)
        self.bytes.fill(0xFF)


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.owner = ptr, size, owner
        self.device_id = device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)


class ndarray:  # noqa: N801
    """A device's array."""

    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None):
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        self.data = MemoryPointer(_Memory(max(nbytes, 1)), 0) if memptr is None else memptr
        raw = (ctypes.c_uint8 * nbytes).from_address(self.data.ptr)
        self._host = np.frombuffer(raw, dtype).reshape(shape)

    @classmethod
    def _view(cls, host, mem):
        view = cls.__new__(cls)
        view._host = host
        view.data = MemoryPointer(mem, host.ctypes.data - mem.ptr)
        return view

    @classmethod
    def _of(cls, host):
        new = cls(host.shape, host.dtype)
        new._host[...] = host
        return new

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    ndim = property(lambda self: self._host.ndim)
    flags = property(lambda self: self._host.flags)
    itemsize = property(lambda self: self._host.itemsize)
    device = property(lambda self: Device(_number_at(self.data.ptr)))
    T = property(lambda self: self._view(self._host.T, self.data.mem))

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "version": 3,
            "strides": None if self.flags.c_contiguous else self.strides,
            "data": (self.data.ptr if self.size else 0, False),
            "stream": get_current_stream().ptr or 1,
        }

    def __dlpack_device__(self):
        return 2, _number_at(self.data.ptr)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __len__(self):
        return len(self._host)

    def __getitem__(self, key):
        item = self._host[key]
        return self._view(
            item if isinstance(item, np.ndarray) else self._host[(*np.atleast_1d(key), ...)], self.data.mem
        )

    def __setitem__(self, key, value):
        self._host[key] = _operand(value)

    def fill(self, value):
        self._host.fill(value)

    def get(self):
        state.copies += 1
        return self._host.copy()

    def set(self, value):
        if not isinstance(value, np.ndarray) or value.dtype != self.dtype or value.shape != self.shape:
            raise TypeError(f"expected an ndarray of {self.dtype} and shape {self.shape}, got {value!r}")
        self._host[...] = value

    def item(self):
        state.copies += 1
        return self._host.item()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.item())

    def astype(self, dtype):
        return self._of(self._host.astype(dtype))

    def view(self, dtype):
        return self._view(self._host.view(dtype), self.data.mem)

    def reshape(self, *shape):
        reshaped = self._host.reshape(*shape)
        shares = np.shares_memory(reshaped, self._host)
        return self._view(reshaped, self.data.mem) if shares else self._of(reshaped)

    def swapaxes(self, a, b):
        return self._view(self._host.swapaxes(a, b), self.data.mem)

    def copy(self):
        return self._of(self._host)

    def sum(self, axis, dtype):
        return self._of(np.add.reduce(self._host, axis, dtype))

    def __lshift__(self, other):
        return self._of(self._host << _operand(other))

    def __add__(self, other):
        return self._of(self._host + _operand(other))

    def __sub__(self, other):
        return self._of(self._host - _operand(other))

    def __mul__(self, other):
        return self._of(self._host * _operand(other))

    __radd__, __rmul__ = __add__, __mul__

    def __reduce__(self):
        return array, (self.get(),)

    def __repr__(self):
        return f"device({self._host!r})"


def _operand(value):
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value._host if isinstance(value, ndarray) else value


def array(obj, dtype=None):
    return ndarray._of(np.array(obj._host if isinstance(obj, ndarray) else obj, dtype))


def asarray(obj, dtype=None):
    """A CuPy array as it is, a view of another CUDA array, or a copy of what is on the host."""
    if isinstance(obj, ndarray) and dtype in (None, obj.dtype):
        return obj
    if hasattr(obj, "__cuda_array_interface__") and not isinstance(obj, ndarray):
        fields = obj.__cuda_array_interface__
        size = int(np.prod(fields["shape"])) * np.dtype(fields["typestr"]).itemsize
        memory = UnownedMemory(fields["data"][0], size, obj)
        return ndarray(fields["shape"], fields["typestr"], MemoryPointer(memory, 0))
    return array(obj, dtype)


def empty(shape, dtype=float):
    return ndarray(shape, dtype)


def zeros(shape, dtype=float):
    new = ndarray(shape, dtype)
    new.fill(0)
    return new


class _Tensor(ctypes.Structure):
    """DLPack's, as far as it is read here."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
    )


def from_dlpack(obj):
    """A view of a contiguous floating array that another library exports."""
    capsule = obj.__dlpack__(stream=get_current_stream().ptr or 1)
    tensor = _Tensor.from_address(foreign.tensor_in(capsule))
    shape = tensor.shape[: tensor.ndim]
    memory = UnownedMemory(tensor.data, int(np.prod(shape)) * tensor.bits // 8, capsule)
    return ndarray(shape, f"f{tensor.bits // 8}", MemoryPointer(memory, 0))


def broadcast_to(obj, shape):
    return ndarray._view(np.broadcast_to(obj._host, shape), obj.data.mem)


def asnumpy(obj):
    return obj.get()


def matmul(a, b, out=None):
    product = np.matmul(_operand(a), _operand(b))
    if out is None:
        return ndarray._of(product)
    out._host[...] = product
    return out


def module():
    """The stand-in as a module by the name of cupy, in a state of its own."""
    state.__init__()
    made = types.ModuleType("cupy")
    own = sys.modules[__name__]
    names = "ndarray array asarray from_dlpack empty zeros broadcast_to asnumpy matmul state"
    for name in names.split():
        setattr(made, name, getattr(own, name))
    made.ElementwiseKernel, made.ReductionKernel = elementwise.ElementwiseKernel, elementwise.ReductionKernel
    runtime = types.SimpleNamespace(
        getDevice=lambda: state.device,
        pointerGetAttributes=lambda address: types.SimpleNamespace(device=_number_at(address)),
    )
    made.cuda = types.SimpleNamespace(
        Device=Device,
        Event=Event,
        ExternalStream=Stream,
        MemoryPointer=MemoryPointer,
        Stream=Stream,
        UnownedMemory=UnownedMemory,
        get_current_stream=get_current_stream,
        get_elapsed_time=get_elapsed_time,
        runtime=runtime,
    )
    return made
