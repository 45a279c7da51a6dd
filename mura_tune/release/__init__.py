"""From the winning recipe to weights that people can trust."""
