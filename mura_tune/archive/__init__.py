"""Answers back to an image archive, as DICOM objects, and studies from it."""
