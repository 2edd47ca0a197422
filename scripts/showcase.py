"""Draw the animation at the head of the README: ``python scripts/showcase.py docs/transfer.webp``.

Each row is a clip and, from the first seed, what three prompts make of its motion.
"""

import tempfile
from pathlib import Path

import torch
from jsonargparse import auto_cli
from PIL import Image

from fastvmt_pl.clips.video_writing import enlarge, side_by_side, write_video
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.toy.toy_world import FPS, ToyWorld
from fastvmt_pl.toy.toy_world import Path as Kind

PROMPTS: dict[Kind, list[str]] = {
    "arc": [
        "a white circle on a navy background",
        "a yellow square on a gray background",
        "a red circle on a black background",
    ],
    "bounce": [
        "a cyan square on a brown background",
        "a green circle on a navy background",
        "a purple square on a gray background",
    ],
}


def main(output: Path, seed: int = 3) -> None:
    """Transfer and draw.

    Args:
        output: WebP or GIF file.
        seed: Which toy world the clips are from.
    """
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, prompts in PROMPTS.items():
            clip, file = ToyWorld(seed, num_objects=1, camera=False, paths=(kind,))[1], Path(scratch) / f"{kind}.mp4"
            write_video(file, clip.frames, FPS)
            settings = {"model.baseline": False, "data.clips": [str(file)], "data.prompts": prompts}
            cli = compose(merged(read_config(CONFIGS / "wan_tiny.yaml"), settings))
            cli.trainer.fit(cli.model, cli.datamodule)
            rows.append(enlarge(side_by_side([clip.frames, *cli.model.result.frames])))
    pictures = [Image.fromarray(frame.numpy()) for frame in torch.cat(rows, 1)]
    with written_whole(output) as path:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / FPS), loop=0)


if __name__ == "__main__":
    auto_cli(main)
