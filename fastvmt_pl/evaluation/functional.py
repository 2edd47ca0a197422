"""Scores of finished videos as functions, each with its formula and source.

Axes: ``tracks`` and ``others`` belong to the two videos; points and flow are (x, y) in pixels. Both videos of a pair
have the same size and number of frames.
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
"""Displacement in pixels below which it may be noise of the tracker."""

LEAST_MOTION = 1e-3
"""Mean flow of a video in pixels above :data:`STILL`, below which it may be noise of a camera."""


def motion_fidelity(reference: Tracks, output: Tracks, reach: float = math.inf) -> float:
    r"""Return how well the tracks of two videos agree, in both directions; 1 if they are the same.

    The agreement of a track that is visible in :math:`n` frames with another, over the :math:`m` frames in which both
    are visible, is

    .. math::
        s(u, v) = \frac{m}{n} \cdot \frac{2 \sum_t u_t \cdot v_t + m e^2}{\sum_t |u_t|^2 + \sum_t |v_t|^2 + m e^2}

    with the positions :math:`u` and :math:`v` minus their means over these frames, and the noise :math:`e` =
    :data:`STILL`. It is 1 if they move alike, 0 if they move at right angles or if one of them is still, and -1 if they
    move in opposite directions; two still tracks agree. Each track counts with its best match in the other video,
    weighted by the extent of its motion. The best of many matches is seldom bad, so unrelated videos have 0.2 to 0.4,
    and more if the camera moves in both.

    It follows the two-way motion fidelity of Yatim et al. (Space-Time Diffusion Features, CVPR 2024, equation 9), which
    averages the cosine of the displacements from frame to frame over all tracks with equal weight. That is not a number
    for a still point, ignores speed and occlusion, and a still background outweighs a moving object.

    Args:
        reference: Tracks of the reference.
        output: Tracks of the video.
        reach: Largest distance in pixels between the mean positions of two tracks that match. Without a limit, the
            motion may take place anywhere, but a zoom in then resembles a zoom out: points that move left in one match
            points that move left in the other. A track without a match in reach is compared with a still track, which
            gives more than an opposite one.

    Returns:
        -1 to 1. A video without tracks counts as still; if the reference has none, it is not a number.
    """
    if not len(reference.points):
        return math.nan
    if not len(output.points):
        return float((_alone(reference) * _extent(reference)).sum() / _extent(reference).sum())
    best = torch.cat([_best_agreement(reference, output, reach), _best_agreement(output, reference, reach)])
    weight = torch.cat([_extent(reference), _extent(output)])
    return float((best * weight).sum() / weight.sum())


def _centred(tracks: Tracks) -> Float[Tensor, "tracks frames 2"]:
    """Return positions minus their mean where a point is visible, else 0; in double precision, to be squared."""
    visible = tracks.visible[..., None]
    return (tracks.points.double() - _mean(tracks)[:, None]).where(visible, 0.0)


def _extent(tracks: Tracks) -> Float[Tensor, "tracks"]:
    """Return each point's distance from its mean, summed over frames; still points only count if all are still."""
    extent: Tensor = (_centred(tracks).norm(dim=-1) - STILL).clamp(min=0.0).sum(1)
    return extent + 1e-3


def _best_agreement(tracks: Tracks, others: Tracks, reach: float) -> Float[Tensor, "tracks"]:
    """Return the agreement of each track with its best match.

    Sums over the frames that two tracks share are matrix products, one for each coordinate. The part of the means over
    these frames is subtracted afterwards.
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
    """Return the agreement of each track with a still track."""
    noise = tracks.visible.double().sum(1) * STILL**2
    agreement: Tensor = noise / (_centred(tracks).pow(2).sum((1, 2)) + noise)
    return agreement


def _offsets(tracks: Tracks, others: Tracks) -> Float[Tensor, "2 tracks others"]:
    """Return the differences of the mean positions of tracks, in x and in y."""
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
    """Return the motion fidelity as the code of SMM and of DiTFlow computes it, to compare with their tables.

    The mean cosine of the displacements from frame to frame, of each track of the output with its best match in the
    reference, averaged over the tracks of the output. As in that code, 1 is subtracted from the agreement of tracks of
    the same number, so points at the same place of both grids never match. It is not a number if a point is still.

    Args:
        reference: Tracks of the reference, from CoTracker on a grid of points of the first frame.
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

    The share is ``sum(weight * error) / sum(weight * length)`` over pixels, with the length of the reference's flow and
    ``weight = max(0, length - STILL)``. It is 1 for a still video. Still parts of the reference, such as a background,
    do not count. If the mean weight is below :data:`LEAST_MOTION`, the reference counts as still.

    Args:
        reference: The reference.
        output: The video.

    Returns:
        Both; the share is not a number if the reference is still.

    Raises:
        UserError: If the two differ in shape, or have fewer than two frames.
    """
    check_pair(reference, output)
    wanted, made = dense_flow(reference), dense_flow(output)
    length, error = wanted.norm(dim=-1), (made - wanted).norm(dim=-1)
    weight = (length - STILL).clamp(min=0.0)
    moves = float(weight.mean()) > LEAST_MOTION
    return float(error.mean()), float((error * weight).sum() / (length * weight).sum()) if moves else math.nan


def check_pair(reference: Tensor, output: Tensor) -> None:
    """Raise :class:`UserError` unless two videos have the same shape and at least two frames."""
    if reference.shape != output.shape or len(reference) < 2:
        raise UserError(
            f"the videos are {list(reference.shape)} and {list(output.shape)}; give two of one shape with at least "
            "two frames, as fastvmt_pl.clips.align makes them"
        )


def temporal_consistency(frames: Frames, tolerance: float = 1.0) -> float:
    """Return the similarity of consecutive frames after the motion between them is undone; 1 if they are the same.

    1 minus the warping error of Lai et al. (Learning Blind Video Temporal Consistency, ECCV 2018), with DIS flow and
    absolute differences of colours from 0 to 1. Where forward and backward flow disagree, as next to a moving object
    and everywhere at a cut, the motion is unknown and the difference without warping counts; Lai et al. skip these
    pixels.

    Args:
        frames: The video.
        tolerance: Largest difference in pixels between forward and backward flow that agree.

    Returns:
        0 to 1.

    Raises:
        UserError: If there are fewer than two frames.
    """
    check_pair(frames, frames)
    forward, backward = dense_flow(frames), dense_flow(frames, backward=True)
    height, width = frames.shape[1:3]
    start = pixel_grid(height, width).expand_as(forward)
    moved = start + forward
    seen = consistent(start, moved, backward, tolerance)[..., None]
    following = sample_at(frames[1:].float(), moved).where(seen, frames[1:].float())
    return float(1 - (following - frames[:-1]).abs().mean() / 255)
