"""CoTracker (Karaev et al., ECCV 2024), which needs its own package and weights."""

from pathlib import Path

import torch
from einops import rearrange

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.tracks import Frames, Tracks


class CoTracker:
    """Tracks a grid of points of the first frame with CoTracker.

    Install its package from https://github.com/facebookresearch/co-tracker, which also links to its weights.

    Args:
        checkpoint: Weights file, such as scaled_offline.pth.
        grid_size: Rows and columns of points; the code of SMM and DiTFlow uses 55.
        device: Device that it runs on.

    Raises:
        UserError: If the package is not installed or the file does not exist.
    """

    def __init__(self, checkpoint: Path, grid_size: int = 55, device: str = "cpu") -> None:
        try:
            from cotracker.predictor import CoTrackerPredictor
        except ImportError as error:
            raise UserError(
                "the package cotracker is not installed; pip install it from "
                "https://github.com/facebookresearch/co-tracker, or use another tracker"
            ) from error
        if not checkpoint.is_file():
            raise UserError(f"the weights of CoTracker, {checkpoint}, are no file; download them, or check the path")
        self.model = CoTrackerPredictor(checkpoint=str(checkpoint)).to(device).eval()
        self.grid_size, self.device = grid_size, device

    @torch.no_grad()
    def track(self, frames: Frames) -> Tracks:
        """Return the tracks of the grid."""
        video = rearrange(frames, "f h w c -> 1 f c h w").float().to(self.device)
        points, visible = self.model(video, grid_size=self.grid_size)
        return Tracks(rearrange(points, "1 f n xy -> n f xy").cpu(), rearrange(visible, "1 f n -> n f").bool().cpu())
