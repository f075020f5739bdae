"""The registry as fixtures: `method` runs a test for each optimizer, `variant` for each combination of options."""

import numpy as np
import pytest

from .methods import DTYPES, METHODS, VARIANTS


@pytest.fixture(params=METHODS, ids=str)
def method(request):
    return request.param


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.__name__)
def dtype(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)
