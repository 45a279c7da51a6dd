"""Torch: networks, tasks, augmentation, metrics and the one training function."""

import os

# Threads that wait for one another give their core away instead of spinning on it. Alone that costs
# a CPU epoch about a fifth; beside another process that trains, spinning made a step up to 71
# times slower (benchmarks/results/threads.txt). OpenMP reads this when torch loads, so it stands
# here, above every import of torch; OMP_WAIT_POLICY in the environment overrides it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
