"""Torch: networks, tasks, augmentation, metrics and the one training function."""

import os

# Threads that wait for one another give their core away instead of spinning on it. Beside one
# other busy process, spinning made small operations 100 times slower (benchmarks/threads.py).
# OpenMP reads this when torch loads it, so it has to stand here, above every import of torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
