"""Stop cleanly when a scheduler asks for it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that announce the end of a process: from SLURM (``--signal``), torchrun and clouds."""
REQUEUE_CODE = 75
"""Exit code of a run that can be started again and continued: EX_TEMPFAIL of sysexits.h."""


class Preempted(RuntimeError):  # not named an error: the run continues when it is started again
    """The run was asked to stop and has written a checkpoint."""


class StopRequest:
    """A request to stop this process.

    Attributes:
        received: The signal that was received, or ``None``.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """Record the signals from now on instead of ending the process; only the main thread can do this."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    def check(self) -> None:
        """Raise :class:`Preempted` if this process was asked to stop."""
        if self.received is not None:
            again = "start the same command again to continue (fit and train: with --ckpt_path)"
            raise Preempted(f"stopped by {self.received.name}; {again}")


@contextmanager
def listening(request: StopRequest) -> Iterator[None]:
    """Within the block, record SIGTERM and SIGUSR1; then restore their handlers."""
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    request.listen()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
