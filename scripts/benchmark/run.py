"""Measure what the parts of motion transfer cost, as ratios of sides timed in turn, and print Markdown tables.

Usage: ``python scripts/benchmark/run.py``, or with ``--parts abd`` for some of the parts.
"""

import logging
import tempfile
import warnings
from pathlib import Path

from attention import part_c
from full_size import part_f
from guidance import part_a, part_b, part_d, part_j
from jobs import part_e
from jsonargparse import auto_cli
from levers import part_g
from list_start import part_i
from measure import hardware
from scaling import part_h
from subject import Sizes, load_subject, write_scaled_wan

from fastvmt_pl.backbones.precision import Precision

PARTS = "abcdefghij"


def main(
    parts: str = "abcde",
    num_heads: int = 4,
    head_dim: int = 32,
    grid: tuple[int, int] = (24, 24),
    num_latent_frames: int = 5,
    device: str = "cpu",
    dtype: Precision = "float32",
    num_frames: int = 9,
    size: tuple[int, int] = (128, 128),
    repeats: int = 3,
) -> None:
    """Print the tables of some parts.

    Args:
        parts: Letters of the parts. a: a fresh gradient against its bare cost. b: a guided step against the published
            way of executing it. c: windowed against global motion flow. d: a step that reuses a gradient against a
            fresh one. e: whole jobs on the bundled model, with and without each part of the method. f: guided steps
            at the size of Wan 2.1 1.3B and the memory they take; writes 3 GB to the temporary folder. g: what the
            memory levers save and cost; needs a C++ compiler. h: a list of jobs by two processes against one. i: how
            soon a list of 10,000 jobs begins. j: jobs under each guidance against plain sampling.
        num_heads: Attention heads of the transformer in a, b, d, g and j, which has Wan 2.1 1.3B's 30 blocks.
        head_dim: Width of each head.
        grid: Rows and columns of tokens in a latent frame, in a, b, d, g and j; multiples of 3 and 4 in b.
        num_latent_frames: Latent frames in a, b, d, g and j.
        device: cpu, cuda or cuda:1.
        dtype: Precision of the transformer in a, b, d, g and j.
        num_frames: Frames of the video in f; the paper's is 81.
        size: Its height and width in pixels; the paper's is 480 x 832.
        repeats: Rounds of each part that count, of which it takes medians.
    """
    unknown = set(parts) - set(PARTS)
    if unknown or repeats < 1:
        raise ValueError(f"parts is {parts!r} and repeats {repeats}; use letters of {PARTS!r} and at least 1")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"Measured on {hardware(device)}; medians of {repeats} rounds.\n")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        if set(parts) & set("abdgj"):
            sizes = Sizes(num_heads, head_dim, grid, num_latent_frames, dtype, device)
            print(f"Parts a, b, d, g, j: {sizes}.\n", flush=True)
            write_scaled_wan(scratch / "scaled", sizes)
        if set(parts) & set("abdj"):
            subject = load_subject(scratch / "scaled", sizes)
        for part in sorted(set(parts)):
            if part == "a":
                text = part_a(subject, sizes, repeats)
            elif part == "b":
                text = part_b(subject, scratch / "scaled", sizes, repeats)
            elif part == "c":
                text = part_c(repeats, device)
            elif part == "d":
                text = part_d(subject, sizes, repeats, scratch)
            elif part == "j":
                text = part_j(subject, scratch / "scaled", sizes, repeats)
            elif part == "e":
                text = part_e(scratch, device, repeats)
            elif part == "g":
                text = part_g(scratch / "scaled", sizes, repeats)
            elif part == "h":
                text = part_h(scratch, repeats)
            elif part == "i":
                text = part_i(scratch, repeats)
            else:
                text = part_f(scratch, device, num_frames, size)
            print(text, flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
