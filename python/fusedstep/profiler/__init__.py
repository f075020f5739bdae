"""What calls cost, against what the machine can do."""

from fusedstep.profiler.ceilings import Machine, machine

__all__ = ["Machine", "machine"]
