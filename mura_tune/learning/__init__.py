"""Torch: networks, tasks, augmentation, metrics and the one training function."""
