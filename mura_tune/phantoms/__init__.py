"""Synthetic radiographs whose lesions are known."""
