"""What a network is worth: calibrated probabilities, figures with intervals, comparisons."""
