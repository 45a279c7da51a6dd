"""A released classifier, put to use."""
