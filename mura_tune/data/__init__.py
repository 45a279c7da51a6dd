"""Data: the index, the split and the pixels; numpy, pandas and PIL, no torch."""
