"""The true motion of toy clips as a torchmetrics metric."""

from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.evaluation.video_metrics import VideoMetric
from fastvmt_pl.toy.toy_tracker import centroids, colour_mask, relative_path_error


class ToyPathError(VideoMetric):
    """Relative path error of the object with a given colour, see ``toy_tracker.relative_path_error``.

    1 for an object that does not move, 0 for the true motion anywhere in the picture.
    """

    higher_is_better = False

    def update(self, output: Frames, colour: str, truth: Float[Tensor, "frames 2"]) -> None:
        """Add a video of toy size, the colour of its object and the true path in pixels."""
        self.add(relative_path_error(centroids(colour_mask(output, colour)), truth))
