"""Runs: from settings to objects, run folders, and what each command does."""
