"""Leave in good order when a scheduler takes the machine away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What is sent some time before a process is killed: by SLURM as ``--signal`` says, by torchrun, by clouds."""
REQUEUE_CODE = 75
"""Exit code of a run that is to be started again: EX_TEMPFAIL of sysexits.h."""


class Preempted(RuntimeError):  # it is no error: the run goes on when it is started again
    """The run was asked to stop, and has, after a checkpoint."""


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        received: The signal that asked, once one has come.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """Note the signals from now on, instead of ending; a thread other than the main one cannot."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    def check(self) -> None:
        """Raise :class:`Preempted` if this process was asked to stop."""
        if self.received is not None:
            again = "start the same command again to go on (fit and train: with --ckpt_path)"
            raise Preempted(f"stopped by {self.received.name}; {again}")


@contextmanager
def listening(request: StopRequest) -> Iterator[None]:
    """Within the block, note SIGTERM and SIGUSR1; after it they do what they did before."""
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    request.listen()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
