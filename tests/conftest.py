"""What all tests share: how many examples hypothesis draws, and the number of threads as a fixture."""

import os

import fusedstep
import pytest
from hypothesis import HealthCheck, settings

# "quick" is the default. HYPOTHESIS_PROFILE=brief is for slow builds; thorough looks longer, at new examples each time.
settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("brief", settings.get_profile("quick"), max_examples=12)
settings.register_profile(
    "thorough", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def threads():
    """fusedstep.set_num_threads, undone afterwards."""
    before = fusedstep.num_threads()
    yield fusedstep.set_num_threads
    fusedstep.set_num_threads(before)
