"""The machine and the process: CPUs, memory, signals, time limits."""
