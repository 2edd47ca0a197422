"""The commands of the command line: here, and here alone, modules, datamodules and callbacks are put together."""
