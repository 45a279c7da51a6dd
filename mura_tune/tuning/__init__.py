"""The search: the only place that imports optuna."""
