"""Arrays in CUDA memory that are not CuPy's: what other libraries export, over memory of the host."""

import ctypes

import numpy as np

_MANAGED = {b"dltensor": 0, b"dltensor_versioned": 32}  # where DLPack's tensor begins in what a capsule holds


def tensor_in(capsule):
    """The address of DLPack's tensor in a capsule."""
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name = get_name(capsule)
    return get_pointer(capsule, name) + _MANAGED[name]


class Interface:
    """Has __cuda_array_interface__ alone, as Numba's arrays; any field may be set."""

    def __init__(self, host, **fields):
        self.host = host
        self.dtype = fields.pop("dtype", host.dtype)
        data = (host.ctypes.data if host.size else 0, not host.flags.writeable)
        strides = None if host.flags.c_contiguous else host.strides
        self.fields = {"shape": host.shape, "typestr": host.dtype.str, "data": data, "strides": strides, "version": 2}
        self.fields.update(fields)

    @property
    def __cuda_array_interface__(self):
        return self.fields


def bfloat16(bits):
    """An array of bfloat16, given as uint16, as torch and CuPy export it."""
    return Interface(bits, typestr="<V2", dtype="bfloat16")


class Torch(Interface):
    """A tensor that requires a gradient: torch exports what it detaches to."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

    def __dlpack_device__(self):
        return 2, 0

    def detach(self):
        return Interface(self.host)


class DLPack:
    """Speaks DLPack alone. `versioned`: knows the protocol's version 1, which tells what is read-only."""

    def __init__(self, host, *, versioned=True, code=None, bits=None, device=(2, 0)):
        self.host, self.versioned, self.device = host, versioned, device
        self.type = code, bits
        self.streams = []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        self.streams.append(options.pop("stream"))
        if options and not self.versioned:
            raise TypeError(f"got unexpected arguments {list(options)}")
        capsule = self.host.__dlpack__(**options)
        tensor = tensor_in(capsule)
        ctypes.c_int32.from_address(tensor + 8).value = self.device[0]
        ctypes.c_int32.from_address(tensor + 12).value = self.device[1]
        for offset, value in zip((20, 21), self.type, strict=True):
            if value is not None:
                ctypes.c_uint8.from_address(tensor + offset).value = value
        return capsule


def to_bfloat16(array):
    """The nearest bfloat16 of each float32, ties to even, as bits."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)
