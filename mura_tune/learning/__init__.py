"""Torch: networks, tasks, augmentation, metrics and the one training function."""

import os

# Threads that wait for one another give their core away instead of spinning on it. This is a trade:
# in benchmarks/results/threads.txt a step of small operations takes 2.5 times as long alone, and
# beside a process that trains it gains 1.2 at the median but 71 in the worst of three rounds.
# OpenMP reads this when torch loads, so it stands here, above every import of torch;
# OMP_WAIT_POLICY in the environment overrides it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
