"""Transfer a clip's motion to prompts: the Python function, and the run that the command line shares with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, cast

from jaxtyping import Float, UInt8
from lightning import Callback
from torch import Tensor

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.callbacks import Costs, RunFolder
from fastvmt_pl.clips import Clip
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.scores import score_transfer
from fastvmt_pl.regions import RegionGiven
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.composition import SILENT, compose
from fastvmt_pl.runs.given_objects import clip_of, described, identity_with, image_of, region_of, settings_of_backbone
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.options import default_config
from fastvmt_pl.runs.quiet import quiet
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.runs.transfer_options import (
    Options,
    TransferOptions,
    checked_options,
    fit,
    in_folder,
    settings_of,
    warn_if_unguided,
)

TAKEN = ("data.clips", "data.prompts", "data.images", "data.seed")
"""Settings that arguments of :func:`transfer` stand for."""


@dataclass(frozen=True)
class Transfer:
    """Videos that move as a clip moves.

    Attributes:
        prompts: What each shows.
        seeds: Seed of each one's noise.
        frames: Their pictures, 0 to 255.
        latents: Their latents.
        baseline: Pictures of the same starts without guidance; ``None`` if they were not asked for.
        reference: The clip as it was read.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    frames: UInt8[Tensor, "prompts frames height width 3"]
    latents: Float[Tensor, "prompts channels latent_frames latent_height latent_width"]
    baseline: UInt8[Tensor, "prompts frames height width 3"] | None
    reference: Clip

    @property
    def fps(self) -> float:
        """Frames a second of the clip as it was read, at which the videos move as fast as the clip."""
        return self.reference.fps

    @cached_property
    def scores(self) -> list[dict[str, float]]:
        """Scores of each video against the clip, by the names in docs/evaluation.md; measured when first asked for."""
        baselines = [None] * len(self.prompts) if self.baseline is None else self.baseline
        videos = zip(self.frames, baselines, strict=True)
        return [score_transfer(self.reference, frames, baseline) for frames, baseline in videos]


@quiet()
def transfer(
    clip: str | Path | Clip | Tensor,
    prompt: str | Sequence[str],
    *,
    image: str | Path | Tensor | None = None,
    region: RegionGiven | None = None,
    place: str | Sequence[float] | None = None,
    output: Path | str | None = None,
    cache_dir: Path | str | None = None,
    seed: int = 0,
    model: str | Path | Backbone | None = None,
    config: Path | str | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Transfer:
    """Make videos that show prompts and move as a clip moves.

    Prints nothing, and writes nothing unless told where.

    Args:
        clip: The clip whose motion is wanted: a video file, a folder of numbered pictures (with ``fps``), a
            :class:`~fastvmt_pl.clips.Clip`, or its frames, 0 to 255 (with ``fps``).
        prompt: What the new video shows: its content and look, not its motion. Several prompts make a video each.
        image: The image that the videos begin with, cropped to their size, for models that take one: a picture file,
            or its pixels, uint8 ``[height, width, 3]``.
        region: The part of the clip whose motion is wanted: a box (x0, y0, x1, y1) in pixels of its first frame; a
            mask of that frame or of all, as files or as booleans ``[height, width]`` or ``[frames, height, width]``;
            or ``auto`` for all that moves. Default: all motion.
        place: Where the region's motion is in the new video: the subject's box in pixels of the image (of the new video
            if there is none); scale, dx and dy; ``auto``; or ``same``.
        output: Folder for videos, measures, settings and a checkpoint. A run that was stopped continues from there
            when it is started again with the same settings.
        cache_dir: Folder that keeps the clip's motion for other prompts and seeds.
        seed: Seed of the first video's noise, to which each further one adds 1.
        model: A name, folder or hub id, or a backbone that is in memory already.
        config: YAML file of settings, or its content. Default: a shipped one that fits the model.
        settings: Other settings by their dotted names in YAML, such as ``{"data.motion.window": 5}``.
        options: See :class:`~fastvmt_pl.runs.transfer_options.TransferOptions`.

    Returns:
        The videos, their latents and their scores.

    Raises:
        UserError: If a setting, the clip, the model or the folder cannot be used; the message says what to change.

    Example:
        .. code-block:: python

            from fastvmt_pl import transfer

            made = transfer("clip.mp4", "a panda riding a bicycle", model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
            made.frames  # uint8, [prompts, frames, height, width, 3]
            made.scores[0]["motion_fidelity"]
    """
    taken = [name for name in TAKEN if name in (settings or {})]
    if taken:
        raise UserError(f"{taken[0]} cannot be among the settings; use clip, prompt, image and seed")
    kept = {"data.keep_motion": cache_dir is not None, "data.cache_dir": cache_dir}
    options = cast(Options, checked_options(options))
    return run_transfer(
        clip,
        prompt,
        image=image,
        region=region,
        place=place,
        output=output,
        seed=seed,
        model=model,
        config=config,
        settings=kept | dict(settings or {}),
        **options,
    )


def run_transfer(
    clip: Any,
    prompt: str | Sequence[str],
    *,
    image: str | Path | Tensor | None = None,
    region: RegionGiven | None = None,
    place: str | Sequence[float] | None = None,
    output: Path | str | None = None,
    seed: int = 0,
    model: str | Path | Backbone | None = None,
    config: Path | str | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> Transfer:
    """Do as :func:`transfer` does, keep motion as the config says, and let Lightning speak.

    Args:
        clip: The clip.
        prompt: One prompt, or several.
        image: The image that the videos begin with.
        region: The part of the clip whose motion is wanted.
        place: Where it is in the new video.
        output: Folder for the results.
        seed: Seed of the first video's noise.
        model: The model, or a backbone.
        config: The config.
        settings: Other settings by dotted names.
        callbacks: What the trainer has besides, such as a progress bar.
        options: How to transfer.

    Raises:
        UserError: If something cannot be used.
        Preempted: If a callback stops the run; the same call continues it.
    """
    base = _base(model, config)
    source = clip_of(clip, options.get("fps"))
    backbone = settings_of_backbone(model, options) if isinstance(model, Backbone) else {}
    asked = cast(TransferOptions, {**options, "model": None if backbone or model is None else str(model)})
    given = {
        **settings_of(asked, base),
        **backbone,
        "data.clips": [source],
        **({} if image is None else {"data.images": [image_of(image)]}),
        **({} if region is None else {"data.region": region_of(region)}),
        **({} if place is None else {"data.place": place if isinstance(place, str) else list(place)}),
        "data.prompts": [prompt] if isinstance(prompt, str) else list(prompt),
        "data.seed": seed,
        **(settings or {}),
    }
    if isinstance(source, Clip):
        given.setdefault("data.num_frames", len(source.frames))
    folder = None if output is None else Path(output)
    if folder is None:
        trainer = {**SILENT, "callbacks": list(callbacks)}
    else:
        trainer = in_folder(folder, [Costs(), RunFolder(folder), *callbacks])
    cli = compose(merged(base, given), trainer)
    warn_if_unguided(cli, {**options, **(settings or {})})
    if folder is None:
        cli.trainer.fit(cli.model, cli.datamodule)
    else:
        with claimed_folder(folder, lambda files: identity_with(files["config"], cli), config=described(cli)):
            fit(cli, folder)
    return _made(cli)


def _base(model: str | Path | Backbone | None, config: Path | str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config that everything else overrides."""
    if isinstance(config, Mapping):
        return dict(config)
    name = model.source if isinstance(model, Backbone) else model
    return read_config(default_config(str(name or "wan-tiny")) if config is None else Path(config))


def _made(cli: TransferCLI) -> Transfer:
    result, data = cli.model.result, cli.datamodule
    assert result is not None
    return Transfer(
        prompts=data.prompts,
        seeds=tuple(data.seeds),
        frames=result.frames,
        latents=result.latents,
        baseline=result.baseline,
        reference=data.clips[0],
    )
