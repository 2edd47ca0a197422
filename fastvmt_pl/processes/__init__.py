"""Processes: their ranks, how they are stopped, how they share work, and the memory that they take."""
