"""Scores of finished videos as functions, each with its formula and source.

Axes: ``tracks`` and ``others`` are those of two videos; points and flow are (x, y) in pixels. Both videos of a pair
have as many frames and one size.
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.dense_flow import consistent, dense_flow, pixel_grid, sample_at
from fastvmt_pl.evaluation.tracks import Frames, Tracks

STILL = 0.1
"""Distance in pixels below which a displacement may be the tracker's noise."""

LEAST_MOTION = 1e-3
"""Flow in pixels beyond :data:`STILL`, averaged over a video, below which it may be the noise of a camera."""


def motion_fidelity(reference: Tracks, output: Tracks, reach: float = math.inf) -> float:
    r"""Return how well the tracks of two videos agree, both ways: 1 if they are the same, less the less they agree.

    The agreement of a track with another is, over the :math:`m` of its :math:`n` frames in which both are visible,

    .. math::
        s(u, v) = \frac{m}{n} \cdot \frac{2 \sum_t u_t \cdot v_t + m e^2}{\sum_t |u_t|^2 + \sum_t |v_t|^2 + m e^2}

    with both positions :math:`u` and :math:`v` less their means over these frames, and the noise :math:`e` of
    :data:`STILL`: 1 if they move alike, 0 if at right angles or if one of the two is still, -1 if they are opposite;
    two still ones agree. Each track counts with its best match in the other video, and as much as it moves. As the best
    of many matches is seldom bad, unrelated videos have 0.2 to 0.4, and more if both are moved by a camera.

    It follows the two-way motion fidelity of Yatim et al. (Space-Time Diffusion Features, CVPR 2024, equation 9), which
    averages the cosine of the steps from frame to frame over all tracks alike. That one is not a number at a still
    point, sees neither speed nor hidden points, and a still background hides what moves in front of it.

    Args:
        reference: Tracks of the reference.
        output: Tracks of the video.
        reach: Distance in pixels up to which tracks match, between their mean positions over these frames. Without a
            limit, the motion may take place anywhere; but a zoom in then resembles a zoom out, since what goes left in
            one finds its like in what goes left in the other. A track without any match in reach agrees with something
            still, which is more than with its opposite.

    Returns:
        -1 to 1; a video without tracks counts as a still one, and without any in the reference it is not a number.
    """
    if not len(reference.points):
        return math.nan
    if not len(output.points):
        return float((_alone(reference) * _extent(reference)).sum() / _extent(reference).sum())
    best = torch.cat([_best_agreement(reference, output, reach), _best_agreement(output, reference, reach)])
    weight = torch.cat([_extent(reference), _extent(output)])
    return float((best * weight).sum() / weight.sum())


def _centred(tracks: Tracks) -> Float[Tensor, "tracks frames 2"]:
    """Return positions less their mean where a point is visible, 0 elsewhere; in double precision, to be squared."""
    visible = tracks.visible[..., None]
    return (tracks.points.double() - _mean(tracks)[:, None]).where(visible, 0.0)


def _extent(tracks: Tracks) -> Float[Tensor, "tracks"]:
    """Return how far each point is from its mean, summed over frames; still ones count only if there are no others."""
    extent: Tensor = (_centred(tracks).norm(dim=-1) - STILL).clamp(min=0.0).sum(1)
    return extent + 1e-3


def _best_agreement(tracks: Tracks, others: Tracks, reach: float) -> Float[Tensor, "tracks"]:
    """Return the agreement of each track with its best match.

    Sums over the frames that two tracks share are products of matrices, one a coordinate, and what the means over these
    frames add to them is taken out afterwards.
    """
    u, v, seen, others_seen = _centred(tracks), _centred(others), tracks.visible.double(), others.visible.double()
    shared = seen @ others_seen.T
    count = shared.clamp(min=1.0)
    product, energy, other_energy, apart = (torch.zeros_like(shared) for _ in range(4))
    for x, y, offset in zip(u.unbind(-1), v.unbind(-1), _offsets(tracks, others), strict=True):
        mean_x, mean_y = x @ others_seen.T / count, seen @ y.T / count
        product += x @ y.T - count * mean_x * mean_y
        energy += x.pow(2) @ others_seen.T - count * mean_x.pow(2)
        other_energy += seen @ y.pow(2).T - count * mean_y.pow(2)
        apart += (mean_x - mean_y + offset).pow(2)
    noise = count * STILL**2
    agreement = shared / seen.sum(1)[:, None] * (2 * product + noise) / (energy + other_energy + noise)
    return agreement.where(apart <= reach**2, _alone(tracks)[:, None]).amax(1)


def _alone(tracks: Tracks) -> Float[Tensor, "tracks"]:
    """Return the agreement of each track that has no match: as with something still."""
    noise = tracks.visible.double().sum(1) * STILL**2
    agreement: Tensor = noise / (_centred(tracks).pow(2).sum((1, 2)) + noise)
    return agreement


def _offsets(tracks: Tracks, others: Tracks) -> Float[Tensor, "2 tracks others"]:
    """Return how far the mean positions of tracks lie apart, in x and in y."""
    first, second = _mean(tracks), _mean(others)
    return rearrange(first[:, None] - second[None], "n m xy -> xy n m")


def _mean(tracks: Tracks) -> Float[Tensor, "tracks 2"]:
    """Return the mean position of each point where it is visible."""
    visible = tracks.visible[..., None]
    mean: Tensor = tracks.points.double().where(visible, 0.0).sum(1) / visible.sum(1)
    return mean


def published_motion_fidelity(
    reference: Float[Tensor, "tracks frames 2"], output: Float[Tensor, "others frames 2"]
) -> float:
    """Return the motion fidelity that the code of SMM and of DiTFlow computes, to compare with their tables.

    The cosine of the steps from frame to frame, averaged over them, of each track of the output with its best match in
    the reference, averaged over the tracks of the output. As in that code, one is taken from the agreement of tracks of
    equal number, so that points of one place of both grids never match, and it is not a number if a point stands still.

    Args:
        reference: Tracks of the reference, as CoTracker gives them for a grid of points of the first frame.
        output: Tracks of the video.

    Returns:
        -1 to 1, or not a number.
    """
    made, wanted = (
        points.diff(dim=1) / points.diff(dim=1).norm(dim=-1, keepdim=True) for points in (output, reference)
    )
    similarity = einsum(made, wanted, "n t c, m t c -> n m") / made.shape[1]
    return float((similarity - torch.eye(*similarity.shape)).amax(1).mean())


def flow_endpoint_error(reference: Frames, output: Frames) -> tuple[float, float]:
    """Return the end-point error of the output's dense flow, in pixels and as a share of the reference's.

    The share is the sum of errors over the sum of lengths, of the reference's flow, each pixel weighing as much as its
    flow is longer than :data:`STILL`: 1 for a still video. What the reference leaves still, such as a background, does
    not count, and if less than :data:`LEAST_MOTION` is left on average, the reference stands still.

    Args:
        reference: The reference.
        output: The video.

    Returns:
        Both; the share is not a number if the reference stands still.

    Raises:
        ValueError: If the two are not of equal shape, or of fewer than two frames.
    """
    check_pair(reference, output)
    wanted, made = dense_flow(reference), dense_flow(output)
    length, error = wanted.norm(dim=-1), (made - wanted).norm(dim=-1)
    weight = (length - STILL).clamp(min=0.0)
    moves = float(weight.mean()) > LEAST_MOTION
    return float(error.mean()), float((error * weight).sum() / (length * weight).sum()) if moves else math.nan


def check_pair(reference: Tensor, output: Tensor) -> None:
    """Raise ``ValueError`` unless two videos have one shape and at least two frames."""
    if reference.shape != output.shape or len(reference) < 2:
        raise UserError(
            f"the videos are {list(reference.shape)} and {list(output.shape)}; give two of one shape and at least two "
            "frames, as fastvmt_pl.clips.align makes them"
        )


def temporal_consistency(frames: Frames, tolerance: float = 1.0) -> float:
    """Return how alike each frame and its next one are once the motion between them is undone: 1 if they are the same.

    One less the warping error of Lai et al. (Learning Blind Video Temporal Consistency, ECCV 2018), with DIS flow and
    absolute differences of colours of 0 to 1. Where forward and backward flow disagree, as behind a thing that moves
    and all over a cut, there is no motion to undo, and the difference in place counts; Lai et al. leave that out.

    Args:
        frames: The video.
        tolerance: Distance in pixels up to which forward and backward flow agree.

    Returns:
        0 to 1.

    Raises:
        ValueError: If there are fewer than two frames.
    """
    check_pair(frames, frames)
    forward, backward = dense_flow(frames), dense_flow(frames, backward=True)
    height, width = frames.shape[1:3]
    start = pixel_grid(height, width).expand_as(forward)
    moved = start + forward
    seen = consistent(start, moved, backward, tolerance)[..., None]
    following = sample_at(frames[1:].float(), moved).where(seen, frames[1:].float())
    return float(1 - (following - frames[:-1]).abs().mean() / 255)
