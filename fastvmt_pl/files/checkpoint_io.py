"""Atomic writes of checkpoints."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from fastvmt_pl.files.atomic import written_whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file next to the checkpoint, then renames it.

    Lightning's own plugin writes to the system's temporary folder and moves the file. On most clusters that folder is
    on another file system, so the move is a copy, and a process that is killed while copying leaves half a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        """Write a checkpoint to a local path.

        Raises:
            UnwritableError: If it cannot be written.
        """
        with written_whole(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch hides the reason in its context
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
