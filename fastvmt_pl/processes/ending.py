"""End a process whose interpreter may not shut down cleanly."""

import atexit
import logging
import os
import sys


class EndAtOnce:
    """An exit handler that ends the process itself, after the exit handlers that are registered later, as by loggers.

    The threads of gloo sometimes abort the shutdown of the interpreter. Destroying the process group ends them under
    DDP, but not under FSDP, where PyTorch keeps the group with its device meshes.

    Attributes:
        code: The exit code; ``None`` lets the process end as usual.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._end)

    def _end(self) -> None:
        if self.code is not None:
            logging.shutdown()  # a handler that was registered before
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code)
