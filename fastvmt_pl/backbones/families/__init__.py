"""Families of models: what is particular to each of them."""
