"""One Optuna study an area, brought to its exact number of trials."""
