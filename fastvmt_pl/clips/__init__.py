"""Reading clips as a player shows them, and writing videos."""

from fastvmt_pl.clips.aligned import Pair, align, read_pair
from fastvmt_pl.clips.clip import Clip, TooShortError, check_file, content_hash, read_clip
from fastvmt_pl.clips.image import read_image
from fastvmt_pl.clips.picture_folder import find_pictures
from fastvmt_pl.clips.video_reader import ClipError

__all__ = [
    "Clip",
    "ClipError",
    "Pair",
    "TooShortError",
    "align",
    "check_file",
    "content_hash",
    "find_pictures",
    "read_clip",
    "read_image",
    "read_pair",
]
