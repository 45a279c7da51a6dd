"""The one training function and what feeds it."""
