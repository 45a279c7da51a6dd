"""Numbers with intervals, from numpy arrays alone."""
