"""Draw the animation at the head of the README: ``python scripts/showcase.py docs/transfer.webp``.

The first toy jobs: a clip, a picture, and the video that begins with the picture and moves as the clip moves. In those
to the right, the picture's object is elsewhere than the clip's and of another size.
"""

from pathlib import Path

import torch
from einops import rearrange, repeat
from jsonargparse import auto_cli
from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import pad

from fastvmt_pl import transfer
from fastvmt_pl.clips.video_writing import enlarge, side_by_side
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.toy.toy_jobs import ToyJob, toy_jobs
from fastvmt_pl.toy.toy_world import FPS

COLUMNS = ("clip", "picture", "video", "clip", "picture", "video")
CAPTION = 40
"""Height of the captions in pixels."""


def shown(job: ToyJob) -> list[torch.Tensor]:
    """Return the clip, the picture and the new video of a job, uint8 ``[frames, height, width, 3]`` each."""
    assert job.image is not None
    where = {} if job.place is None else {"region": job.region, "place": job.place}
    made = transfer(job.clip.frames, job.prompt, fps=FPS, image=job.image, baseline=False, **where)
    return [job.clip.frames, repeat(job.image, "h w rgb -> f h w rgb", f=len(job.clip.frames)), made.frames[0]]


def main(output: Path, num_rows: int = 2) -> None:
    """Transfer and draw.

    Args:
        output: WebP or GIF file.
        num_rows: Number of rows of two jobs each.
    """
    same = toy_jobs(num_rows, images=True)
    elsewhere = toy_jobs(2 * num_rows, images=True, elsewhere=True, region=0)[num_rows:]
    pairs = zip(same, elsewhere, strict=True)
    rows = [enlarge(side_by_side([video for job in pair for video in shown(job)])) for pair in pairs]
    frames = pad(rearrange(rows, "rows f h w rgb -> f (rows h) w rgb"), (0, 0, 0, 0, CAPTION, 0), value=255)
    pictures = [Image.fromarray(frame.numpy()) for frame in frames]
    width = pictures[0].width / len(COLUMNS)
    for picture in pictures:
        draw = ImageDraw.Draw(picture)
        for number, caption in enumerate(COLUMNS):
            place = ((number + 0.5) * width, CAPTION / 2)
            draw.text(place, caption, fill="black", font=ImageFont.load_default(24), anchor="mm")
    with written_whole(output) as path:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / FPS), loop=0)


if __name__ == "__main__":
    auto_cli(main)
