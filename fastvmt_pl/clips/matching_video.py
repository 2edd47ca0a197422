"""Read another video that belongs to a clip frame by frame, such as its masks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvmt_pl.clips.clip import Clip, open_clip
from fastvmt_pl.clips.video_reader import ClipError


def read_matching(path: Path, source: str | Path | Clip, clip: Clip, reading: Mapping[str, Any]) -> Clip:
    """Return the frames of a video that belong to those that were read of a clip.

    Args:
        path: The video, or a folder of numbered pictures, with a picture for every frame of the clip's file.
        source: What the clip was read from; a clip that was given as an object is matched frame by frame.
        clip: The clip as it was read.
        reading: How: arguments of :func:`~fastvmt_pl.clips.read_clip`, ``num_frames`` among them.

    Raises:
        ClipError: If it cannot be read, or has another number of frames.
    """
    if isinstance(source, Clip):
        expected, indices = len(clip.frames), list(range(len(clip.frames)))
    else:
        timeline = open_clip(source, reading.get("fps")).timeline
        expected = len(timeline.times)
        chosen = {name: reading.get(name) for name in ("start", "end", "stride")}
        indices, _ = timeline.choose(
            reading["num_frames"], chosen["start"] or 0.0, chosen["end"], stride=chosen["stride"]
        )
    video = open_clip(path, clip.fps if path.is_dir() else None)
    if len(video.timeline.times) != expected:
        raise ClipError(
            f"{path} has {len(video.timeline.times)} frames and the clip {expected}; give one with a frame for each of "
            "the clip's"
        )
    return Clip(video.read(indices), clip.fps, str(path))
