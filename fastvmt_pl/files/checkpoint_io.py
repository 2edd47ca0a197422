"""Write checkpoints so that each is either whole or not there."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from fastvmt_pl.files.atomic import written_whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames.

    Lightning's own writes to the system's folder for temporary files and moves from there. Where that is another file
    system, as on most clusters, the move is a copy, and a process that is killed in it leaves half a checkpoint.
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
            except RuntimeError as error:  # which hides why a file cannot be written
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
