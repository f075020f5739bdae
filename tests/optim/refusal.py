"""What the tests of wrong input share: that a call is refused and changes nothing, and arrays that are wrong."""

import contextlib
import re

import numpy as np
import pytest


@contextlib.contextmanager
def refused(error, message, *arrays):
    """The body raises `error` with a message that begins so, and changes no byte of the arrays."""
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        yield
    assert [a.tobytes() for a in arrays] == before


def misaligned(n):
    return np.frombuffer(bytearray(4 * n + 1), np.uint8)[1:].view(np.float32)


def read_only(n):
    array = np.ones(n, np.float32)
    array.flags.writeable = False
    return array


def float32(*shape):
    return np.ones(shape, np.float32)


class Unshared:
    """Its memory cannot be shared: every export is a copy."""

    def __array__(self, dtype=None, copy=None):
        return np.ones(5, np.float32)
