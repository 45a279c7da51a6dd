"""Backbones, heads and their first weights."""
