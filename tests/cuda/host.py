"""The module fusedstep._cuda as it is built for the host, and what its launches were."""

import ctypes
import functools
import importlib.machinery
import importlib.util
import os
from types import ModuleType

from tests.cuda.launchers import Record
from tests.cuda_host import build


class Host:
    """The module, and the settings of the runtime that it runs on."""

    def __init__(self, variant: str) -> None:
        path = str(build.module(variant))
        loader = importlib.machinery.ExtensionFileLoader("fusedstep._cuda", path)
        self.module: ModuleType = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(self.module)
        self.library = ctypes.CDLL(path)
        self.library.cuda_host_records.restype = ctypes.c_uint64

    def launches(self) -> list[Record]:
        """Every launch since the last call."""
        records = (Record * 4096)()
        count = self.library.cuda_host_records(records, ctypes.c_uint64(len(records)))
        assert count <= len(records)
        return list(records[:count])

    def place(self, address: int, nbytes: int, gpu: int) -> None:
        """Say which GPU's memory this is."""
        self.library.cuda_host_place(ctypes.c_void_p(address), ctypes.c_uint64(nbytes), gpu)

    def capturing(self, on: bool) -> None:
        """Say whether streams are recorded into a graph."""
        self.library.cuda_host_capturing(ctypes.c_bool(on))

    def driver(self, present: bool) -> None:
        """Say whether there is a driver."""
        self.library.cuda_host_driver(ctypes.c_bool(present))


@functools.cache
def host() -> Host:
    """The variant that FUSEDSTEP_CUDA_HOST names."""
    return Host(os.environ.get("FUSEDSTEP_CUDA_HOST", "plain"))
