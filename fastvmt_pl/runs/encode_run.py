"""From tar files of videos and captions to a data folder for training."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning import Trainer

from fastvmt_pl.backbones import Backbone, load_backbone
from fastvmt_pl.backbones.precision import PrecisionOption, settled
from fastvmt_pl.clips import Clip, ClipError, read_clip
from fastvmt_pl.distillation import Sample, read_videos, write_shard
from fastvmt_pl.distillation.shard_index import Shard, read_index, write_index
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.file_hash import file_sha256
from fastvmt_pl.files.locks import locked
from fastvmt_pl.runs.identity import model_content
from fastvmt_pl.runs.options import default_config, parse_device, parse_size
from fastvmt_pl.runs.settings import read_config


@dataclass(frozen=True)
class EncodedTar:
    """What came of a tar file.

    Attributes:
        tar: The file.
        num_samples: Its videos that were encoded.
        problems: What was skipped, and why.
    """

    tar: Path
    num_samples: int
    problems: list[str]


def encode(
    tars: list[Path],
    output: Path,
    model: str = "wan-tiny",
    num_frames: int | None = None,
    size: str | None = None,
    rate: float | None = None,
    device: str = "auto",
    dtype: PrecisionOption | None = None,
) -> Iterator[EncodedTar]:
    """Encode videos and captions, for fastvmt train; for a model that needs an image, with each video's first frame.

    Args:
        tars: Tar files with pairs of files, NAME.mp4 and NAME.txt.
        output: The data folder; what it has already of the same content and settings is not encoded again.
        model: wan-tiny (bundled), a local diffusers folder, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        num_frames: Frames to read of each video; which numbers are possible is the model's rule. Default: those of
            the model's config.
        size: Height x width in pixels, such as 480x832; which are possible is the model's rule. Default:
            that of the model's config.
        rate: Frames a second to read, from each video's beginning. Default: the frames are spread over the whole of
            it, so that videos of different lengths are learned at different frame rates.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the text encoder; auto is bfloat16 where the device has instructions for it, or float32.
            Default: that of the model's config.

    Yields:
        What came of each tar file that was not encoded before, once it is.

    Raises:
        ValueError: If a setting cannot be used, or no video can.
        InUseError: If another process is using the data folder.
    """
    if rate is not None and rate <= 0:
        raise UserError(f"rate is {rate}; use a positive number")
    if not tars:
        raise UserError("there are no tar files; give one or more")
    for tar in tars:
        if not tar.is_file():
            raise UserError(f"{tar} does not exist, or is no file; give tar files of videos and captions")
    names = [f"videos-{tar.stem}.tar" for tar in tars]
    if len(set(names)) < len(names):
        raise UserError("two tar files have the same name; rename one of them")
    config = {} if num_frames and size and dtype else read_config(default_config(model))
    frames, shape = (
        num_frames or config["data"]["num_frames"],
        tuple(parse_size(size) if size else config["data"]["size"]),
    )
    dtype = dtype or config["model"]["backbone"]["init_args"].get("dtype", "float32")
    places = {name.removeprefix("trainer."): value for name, value in parse_device(device).items()}
    place = Trainer(**places, logger=False, enable_checkpointing=False).strategy.root_device
    precision = settled(dtype, place)
    backbone = load_backbone(model, dtype=precision)
    backbone.check_geometry(frames, *shape)
    backbone.to(place)
    with locked(output):  # the index is one file
        shards = read_index(output, missing_ok=True)
        done, problems = {shard.name: shard.origin for shard in shards}, list[str]()
        how = f"model {model_content(model)}, {_described(frames, shape, rate)}, {precision}"
        origins = [f"tar sha256 {file_sha256(tar)}, {how}" for tar in tars]
        for tar, name, origin in zip(tars, names, origins, strict=True):
            if done.get(name, origin) != origin:
                was, now = (re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1", str(each)) for each in (done[name], origin))
                raise UserError(f"{output / name} was made of {was}; choose another output for {tar}: {now}")
        for tar, name, origin in zip(tars, names, origins, strict=True):
            if name in done:
                continue
            skipped: list[str] = []
            samples = list(_samples(tar, backbone, frames, shape, rate, skipped))
            write_shard(output / name, samples)
            shards.append(Shard(name, "samples", len(samples), len(skipped), origin=origin))
            write_index(output, shards)
            problems += skipped
            yield EncodedTar(tar, len(samples), skipped)
    if not any(shard.num_samples for shard in shards):
        raise UserError(f"no video can be used: {'; '.join(problems)}")


def _described(num_frames: int, size: tuple[int, ...], rate: float | None) -> str:
    when = "" if rate is None else f" at {rate:g} a second"
    return f"{num_frames} frames of {size[0]} x {size[1]}{when}"


def _samples(
    tar: Path, backbone: Backbone, num_frames: int, size: tuple[int, int], rate: float | None, problems: list[str]
) -> Iterator[Sample]:
    """Yield the encoded videos of a tar file, and add to the problems what is skipped."""
    for where, video, caption in read_videos([tar], problems.append):
        try:
            clip = _read(video, num_frames, rate)
        except ClipError as error:
            problems.append(f"{where}: {error}")
            continue
        pixels, condition = clip.to_video(size), backbone.embed_prompts([caption])
        if backbone.family.images == "required":
            condition = condition.joined(backbone.embed_images(pixels[:, :, :1], num_frames))
        yield Sample(backbone.encode(pixels)[0], condition.compact(), caption)


def _read(video: bytes, num_frames: int, rate: float | None) -> Clip:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(video)
        file.flush()
        return read_clip(file.name, num_frames, rate=rate)
