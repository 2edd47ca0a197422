"""Job lists: many transfers by any number of processes."""
