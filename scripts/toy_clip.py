"""Write a clip of the toy world: ``python scripts/toy_clip.py FILE.mp4``."""

from pathlib import Path

from jsonargparse import auto_cli

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.toy.toy_world import FPS, ToyWorld
from fastvmt_pl.toy.toy_world import Path as Kind


def main(output: Path, seed: int = 3, index: int = 1, path: Kind = "arc") -> None:
    """Write one clip and say what it shows.

    Args:
        output: An .mp4 file.
        seed: Which toy world.
        index: Which of its clips.
        path: How its object moves.
    """
    clip = ToyWorld(seed, num_objects=1, camera=False, paths=(path,))[index]
    write_video(output, clip.frames, FPS)
    print(f"{output}: {clip.prompt}, moving in this path: {path}")


if __name__ == "__main__":
    auto_cli(main)
