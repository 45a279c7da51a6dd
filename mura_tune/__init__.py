"""Seven radiograph classifiers from one search pipeline: tune, finalize, evaluate, infer."""

__version__ = "0.1.0"
