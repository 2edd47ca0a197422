"""How well videos follow the motion of their references."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.backends import mps

from fastvmt_pl.clips import content_hash, read_pair
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.clip_similarity import ClipEmbedder
from fastvmt_pl.evaluation.cotracker import CoTracker
from fastvmt_pl.evaluation.opencv_trackers import DenseFlow, LucasKanade
from fastvmt_pl.evaluation.pair_files import PairFiles, find_pairs
from fastvmt_pl.evaluation.scores import BETTER, score_video
from fastvmt_pl.evaluation.tracks import Tracker
from fastvmt_pl.files.atomic import write_text
from fastvmt_pl.files.file_hash import file_sha256
from fastvmt_pl.files.locks import locked_file

Result = dict[str, Any]
Pairs = dict[PairFiles, Result]
Track = Callable[[Sequence[PairFiles]], Iterable[PairFiles]]
"""Yields pairs one after the other."""
VERSION = 3
"""Part of every file; increased when the meaning of a score changes."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of videos.

    Attributes:
        results: The files of each pair with its scores, or with the reason why it has none.
        problems: The reasons why pairs, tables or folders have no scores.
        num_pairs: Number of pairs; a table or folder that cannot be read counts as one.
    """

    results: list[Result]
    problems: list[str]
    num_pairs: int


def evaluate(
    inputs: list[str],
    output: Path = Path("evaluation.json"),
    tracker: Literal["lucas_kanade", "dense_flow", "cotracker"] = "lucas_kanade",
    cotracker_checkpoint: Path | None = None,
    clip_model: str | None = None,
    reconstruction: bool = False,
    fps: float | None = None,
    device: str = "cpu",
    track: Track = iter,
) -> Evaluation:
    """Score how well videos follow the motion of their references.

    Args:
        inputs: A reference and a video; or run folders and tables (CSV, TSV or JSONL with the columns reference and
            output, and optionally baseline and prompt). A reference is a video file or a folder of numbered pictures.
        output: JSON file for the scores. Pairs that it already contains are not scored again.
        tracker: Tracker of points: OpenCV's Lucas-Kanade on corners, its DIS flow on a grid, or CoTracker.
        cotracker_checkpoint: File of CoTracker's weights.
        clip_model: Hub id or folder of a CLIP model, for the similarity of frames to prompts and to each other.
        reconstruction: The videos reconstruct the reference; also gives PSNR and SSIM.
        fps: Frames per second of references that are folders of numbered pictures.
        device: Device of CoTracker and CLIP: cpu, cuda, cuda:1 or mps.
        track: Iterates over the pairs, and may show progress.

    Returns:
        The scores, and what could not be scored.

    Raises:
        UserError: If the inputs or settings cannot be used.
    """
    _check_device(device)
    pairs, problems = find_pairs(inputs)
    follow = _tracker(tracker, cotracker_checkpoint, device)
    clip = None if clip_model is None else ClipEmbedder(clip_model, device)
    if device != "cpu" and clip is None and tracker != "cotracker":
        rank_zero_warn(f"device {device} has no effect: {tracker} runs on the CPU")
    weights = cotracker_checkpoint if tracker == "cotracker" else None
    settings = {
        "version": VERSION,
        "tracker": tracker,
        "cotracker_checkpoint": None if weights is None else file_sha256(weights),
        "clip_model": clip_model,
        "reconstruction": reconstruction,
        **({} if fps is None else {"fps": fps}),
    }

    def score(pair: PairFiles) -> dict[str, float]:
        rate = fps if pair.reference.is_dir() else None
        both = read_pair(pair.reference, pair.output, rate)
        baseline = None if pair.baseline is None else read_pair(pair.reference, pair.baseline, rate)
        return score_video(
            both.reference,
            both.output,
            follow,
            baseline=None if baseline is None else baseline.output,
            reconstruction=reconstruction,
            clip=clip,
            prompt=pair.prompt,
        )

    results: list[Result] = []
    with locked_file(output):
        kept = _read(output, settings)
        for pair in track(pairs):
            result = _result(pair, kept, score)
            results.append(result)
            if kept.get(pair) != result:
                kept[pair] = result
                _write(output, settings, kept, problems)
        _write(output, settings, kept, problems)  # without errors from earlier calls
    num_pairs = len(problems) + len(results)  # a table or a folder that cannot be read counts as one
    return Evaluation(results, problems + [one["error"] for one in results if "error" in one], num_pairs)


def table(results: Sequence[Result]) -> str:
    """Return the scores as a Markdown table with their means; an arrow shows whether higher or lower is better."""
    scored = [one["scores"] for one in results if "scores" in one]
    names = [name for name in BETTER if any(name in scores for scores in scored)]
    arrows = {"higher": "↑", "lower": "↓"}
    videos = ["reference", "output"] if len({one["reference"] for one in results}) > 1 else ["output"]
    head = [*videos, *(f"{name} {arrows[BETTER[name]]}" for name in names)]
    rows = [[*(one[video] for video in videos), *_cells(one.get("scores", {}), names)] for one in results]
    means = {name: _mean([scores[name] for scores in scored if scores.get(name) is not None]) for name in names}
    rows += [["mean", *[""] * (len(videos) - 1), *_cells(means, names)]] if len(rows) > 1 else []
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _cells(scores: dict[str, float | None], names: Sequence[str]) -> list[str]:
    values = [scores.get(name) for name in names]
    return ["" if value is None else f"{value:.3f}" for value in values]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _tracker(name: str, checkpoint: Path | None, device: str) -> Tracker:
    if name == "cotracker":
        if checkpoint is None:
            raise UserError("CoTracker needs its weights; give --cotracker-checkpoint")
        return CoTracker(checkpoint, device=device)
    return LucasKanade() if name == "lucas_kanade" else DenseFlow()


def _check_device(device: str) -> None:
    """Raise :class:`UserError` unless CoTracker and CLIP can run on a device."""
    places = ("cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if mps.is_available() else []))
    if device.split(":")[0] not in places or (":" in device and not re.fullmatch(r"cuda:\d+", device)):
        raise UserError(f"device is {device!r}; use {' or '.join(places)}, which this machine has")


def _read(output: Path, settings: dict[str, Any]) -> Pairs:
    """Return the scores that a file already contains, by the files of the pairs."""
    if not output.exists():
        return {}
    try:
        content = json.loads(output.read_text(encoding="utf-8"))
        scored = [one for one in content["pairs"] if "scores" in one and isinstance(one["key"], str)]
        kept = {_files_of(one): one for one in scored}
        same = content["settings"] == settings
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{output} is in use and holds no evaluation; choose another output") from error
    if not same:
        raise UserError(f"{output} holds scores of other settings; choose another output")
    return kept


def _files_of(result: Result) -> PairFiles:
    """Return the files of a pair that was scored."""
    reference, output, baseline = (result[name] and Path(result[name]) for name in ("reference", "output", "baseline"))
    return PairFiles(reference, output, baseline, result["prompt"])


def _write(output: Path, settings: dict[str, Any], kept: Pairs, problems: Sequence[str]) -> None:
    content = {"settings": settings, "pairs": list(kept.values()), "left_out": list(problems)}
    write_text(output, json.dumps(content, indent=1) + "\n")


def _result(pair: PairFiles, kept: Pairs, score: Callable[[PairFiles], dict[str, float]]) -> Result:
    """Return a pair's scores, or the reason why it has none; a pair of the same content gives its known scores."""
    result: Result = {name: None if value is None else str(value) for name, value in asdict(pair).items()}
    try:
        key = _key(pair)
        known = next((one["scores"] for one in kept.values() if one.get("key") == key), None)
        found = known or {name: value if math.isfinite(value) else None for name, value in score(pair).items()}
        return {**result, "key": key, "scores": found}
    except (
        OSError,
        RuntimeError,
        UserError,
    ) as error:  # a bad file, or too little GPU memory; others continue
        return {**result, "error": str(error)}


def _key(pair: PairFiles) -> str:
    """Return a hash of the contents that a pair's scores depend on."""
    files = [path for path in (pair.reference, pair.output, pair.baseline) if path is not None]
    return hashlib.sha256("/".join([pair.prompt or "", *(content_hash(path) for path in files)]).encode()).hexdigest()
