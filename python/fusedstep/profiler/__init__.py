"""What calls cost, against what the machine can do."""

from fusedstep.profiler.ceilings import Machine, machine
from fusedstep.profiler.record import Group, Profile, profile

__all__ = ["Group", "Machine", "Profile", "machine", "profile"]
