"""Timing an engine on this machine: its processes, their CPUs, and the machine's own record."""
