"""Shards of training samples: tar files in WebDataset's layout that hold latents and conditions as safetensors.

Axes: ``channels``, ``frames``, ``height``, ``width`` of latents; ``steps`` of a sampler.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import webdataset
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.files.tables import decoded

webdataset.utils.enforce_security = True  # a shard is data: no pickle is unpacked

OWN_TENSORS = ("latents", "trajectory", "sigmas")
"""Names of a sample's own tensors in a shard. All others belong to its condition."""


@dataclass(frozen=True)
class Sample:
    """A training video.

    Attributes:
        latents: Normalised latents.
        condition: Condition of the model; see :meth:`~fastvmt_pl.backbones.condition.Condition.compact`.
        prompt: Description of the video.
        seed: Seed of the noise that it was generated from.
        scores: Scores by name.
        trajectory: Noisy latents before each denoising step and at the end, if they were kept.
        sigmas: Noise levels of the trajectory.
        guidance_scale: Scale of the classifier-free guidance that it was generated with.
    """

    latents: Float[Tensor, "channels frames height width"]
    condition: Mapping[str, Tensor]
    prompt: str
    seed: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    trajectory: Float[Tensor, "steps channels frames height width"] | None = None
    sigmas: Float[Tensor, "steps"] | None = None
    guidance_scale: float = 1.0


class SampleError(UserError):
    """A sample of a shard cannot be used."""


def write_shard(path: Path, samples: Sequence[Sample]) -> None:
    """Write a tar file of samples atomically. The same samples give the same bytes."""
    with (
        written_whole(path) as temporary,
        temporary.open("wb") as stream,
        webdataset.TarWriter(stream, encoder=False, mtime=0.0) as writer,
    ):
        for number, sample in enumerate(samples):
            tensors = {**sample.condition, "latents": sample.latents}
            if sample.trajectory is not None and sample.sigmas is not None:
                tensors |= {"trajectory": sample.trajectory, "sigmas": sample.sigmas}
            described = {name: getattr(sample, name) for name in ("prompt", "seed", "scores", "guidance_scale")}
            writer.write(
                {
                    "__key__": f"{path.stem}-{number:04d}",
                    "safetensors": save({name: x.cpu().clone().contiguous() for name, x in tensors.items()}),
                    "json": json.dumps(described).encode(),
                }
            )


def read_shards(
    paths: Iterable[Path], skipped: Callable[[str], None], order: random.Random | None = None, num_shuffled: int = 1000
) -> Iterator[Sample]:
    """Read all samples, shard by shard, or shuffled.

    Every process and worker reads all of them, so the order does not depend on their number.

    Args:
        paths: Tar files.
        skipped: Called with the reason for each shard or sample that cannot be used.
        order: Shuffles the shards, and the samples within a buffer.
        num_shuffled: Size of that buffer in samples, which stay encoded.
    """
    urls = sorted(str(path) for path in paths)
    if order is not None:
        order.shuffle(urls)
    shuffled = [] if order is None else [webdataset.shuffle(num_shuffled, rng=order)]
    return _entries(urls, skipped, *shuffled, _decoded)


def read_videos(paths: Iterable[Path], skipped: Callable[[str], None]) -> Iterator[tuple[str, bytes, str]]:
    """Read tar files of videos and their captions: entries with the endings ``mp4`` and ``txt``.

    Args:
        paths: Tar files.
        skipped: Called with the reason for each file or entry that cannot be used.

    Returns:
        Name, content of the video file, and caption of each entry.
    """
    return _entries([str(path) for path in paths], skipped, _captioned)


def _entries(urls: list[str], skipped: Callable[[str], None], *stages: Callable[..., Any]) -> Iterator[Any]:
    """Return the results of the last of some stages for the entries of tar files."""

    def handler(error: Exception) -> bool:
        skipped(str(error))
        return True

    if not urls:
        return iter(())
    # WebDataset's own opener runs commands, and in secure mode it refuses local files too.
    *before, last = stages
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(urls),
        partial(_opened, handler=handler),
        partial(tar_file_expander, handler=handler),
        partial(group_by_keys, handler=handler),
        *before,
        webdataset.map(last, handler=handler),
    )
    return iter(pipeline)


def _opened(entries: Iterable[dict[str, Any]], handler: Callable[[Exception], bool]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        try:
            with Path(entry["url"]).open("rb") as stream:
                yield {**entry, "stream": stream}
        except OSError as error:
            handler(error)


def _name_of(entry: dict[str, Any], *endings: str) -> str:
    """Return the name of an entry that has files with all of some endings.

    Raises:
        SampleError: If one is missing or empty.
    """
    where = f"{entry['__url__']}, sample {entry['__key__']}"
    missing = [ending for ending in endings if not entry.get(ending)]
    if missing:
        raise SampleError(f"{where}: no {' and no '.join(missing)}")
    return where


def _captioned(entry: dict[str, Any]) -> tuple[str, bytes, str]:
    """Return name, video and caption of an entry, or raise ``SampleError``."""
    where = _name_of(entry, "mp4", "txt")
    try:
        caption = decoded(entry["txt"]).strip()
    except ValueError as error:
        raise SampleError(f"{where}: its txt cannot be read ({error}); save it as UTF-8") from error
    if not caption:
        raise SampleError(f"{where}: its caption is empty")
    return where, entry["mp4"], caption


def _decoded(entry: dict[str, Any]) -> Sample:
    """Return the sample of a shard's entry, or raise ``SampleError``."""
    where = _name_of(entry, "safetensors", "json")
    try:
        tensors, described = load(entry["safetensors"]), json.loads(entry["json"])
        sample = Sample(
            tensors["latents"],
            {name: tensor for name, tensor in tensors.items() if name not in OWN_TENSORS},
            str(described["prompt"]),
            int(described["seed"]),
            dict(described["scores"]),
            tensors.get("trajectory"),
            tensors.get("sigmas"),
            float(described.get("guidance_scale", 1.0)),
        )
    except (SafetensorError, ValueError, TypeError) as error:
        raise SampleError(f"{where}: damaged ({error})") from error
    except KeyError as error:
        raise SampleError(f"{where}: no {error} in it") from error
    if not sample.condition:
        raise SampleError(f"{where}: no condition in it, such as the embedded prompt")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise SampleError(f"{where}: not finite")
    return sample
