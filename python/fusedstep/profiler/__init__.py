"""What calls cost, against what the machine can do."""

from fusedstep.profiler.ceilings import Machine, machine
from fusedstep.profiler.estimate import Estimate, Estimates, cost
from fusedstep.profiler.groups import Group
from fusedstep.profiler.record import Profile, profile

__all__ = ["Estimate", "Estimates", "Group", "Machine", "Profile", "cost", "machine", "profile"]
