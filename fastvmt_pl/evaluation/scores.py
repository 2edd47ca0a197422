"""All scores of a video at once."""

from typing import Literal

import torch
from einops import rearrange
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from fastvmt_pl.clips import Clip, align
from fastvmt_pl.evaluation.appearance import appearance_leak
from fastvmt_pl.evaluation.clip_similarity import ClipEmbedder, frame_similarity, text_similarity
from fastvmt_pl.evaluation.cotracker import CoTracker
from fastvmt_pl.evaluation.functional import (
    flow_endpoint_error,
    motion_fidelity,
    published_motion_fidelity,
    temporal_consistency,
)
from fastvmt_pl.evaluation.opencv_trackers import LucasKanade
from fastvmt_pl.evaluation.tracks import Frames, Tracker

LOCAL_REACH = 0.25
"""Largest distance between tracks that match locally, as a share of the picture's shorter side."""

Better = Literal["higher", "lower"]
BETTER: dict[str, Better] = {
    "motion_fidelity": "higher",
    "local_motion_fidelity": "higher",
    "published_motion_fidelity": "higher",
    "flow_error": "lower",
    "relative_flow_error": "lower",
    "temporal_consistency": "higher",
    "appearance_leak": "lower",
    "psnr": "higher",
    "ssim": "higher",
    "clip_text": "higher",
    "clip_frames": "higher",
}
"""All scores by name, in the order of tables, and whether higher or lower is better."""


def score_transfer(reference: Clip, output: Frames, baseline: Frames | None = None) -> dict[str, float]:
    """Return the scores of the pictures of a transfer, which have the frame rate of the reference.

    Args:
        reference: The reference as it was read, in its own size.
        output: The video's pictures.
        baseline: Pictures of the same start without guidance.
    """
    pair = align(reference, Clip(output, reference.fps, "output"))
    plain = None if baseline is None else align(reference, Clip(baseline, reference.fps, "baseline")).output
    return score_video(pair.reference, pair.output, LucasKanade(), plain)


def score_video(
    reference: Frames,
    output: Frames,
    tracker: Tracker,
    baseline: Frames | None = None,
    reconstruction: bool = False,
    clip: ClipEmbedder | None = None,
    prompt: str | None = None,
) -> dict[str, float]:
    """Return the scores of a video, in the order of :data:`BETTER`.

    Args:
        reference: The reference.
        output: The video, with the same size and number of frames.
        tracker: The tracker; with CoTracker, the published motion fidelity is also computed.
        baseline: A video of the same prompt without the reference.
        reconstruction: Whether the video reconstructs the reference; then PSNR (dB) and SSIM are also computed.
        clip: The CLIP model, for the scores by CLIP.
        prompt: The video's prompt.
    """
    tracks, made = tracker.track(reference), tracker.track(output)
    reach = LOCAL_REACH * min(reference.shape[1:3])
    scores = {
        "motion_fidelity": motion_fidelity(tracks, made),
        "local_motion_fidelity": motion_fidelity(tracks, made, reach),
    }
    if isinstance(tracker, CoTracker):
        scores["published_motion_fidelity"] = published_motion_fidelity(tracks.points, made.points)
    scores["flow_error"], scores["relative_flow_error"] = flow_endpoint_error(reference, output)
    scores["temporal_consistency"] = temporal_consistency(output)
    scores["appearance_leak"] = appearance_leak(reference, output, baseline)
    if reconstruction:
        wanted, shown = (rearrange(frames, "f h w c -> f c h w").to(torch.float32) for frames in (reference, output))
        scores["psnr"] = float(peak_signal_noise_ratio(shown, wanted, data_range=255.0))
        scores["ssim"] = float(structural_similarity_index_measure(shown, wanted, data_range=255.0))  # type: ignore[arg-type]
    if clip is not None:
        pictures = clip.pictures(output)
        if prompt is not None:
            scores["clip_text"] = text_similarity(pictures, clip.text(prompt))
        scores["clip_frames"] = frame_similarity(pictures)
    return scores
