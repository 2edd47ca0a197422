"""Experiments: the same jobs under many settings, compared."""
