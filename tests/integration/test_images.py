"""Videos that begin with an image, by the command line and from Python."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fastvmt_pl import transfer
from fastvmt_pl.backbones import load_backbone
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.clips import read_clip, read_image
from fastvmt_pl.clips.clip import fit
from fastvmt_pl.errors import UserError
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.toy import ToyWorld

PROMPT = "a red circle on a gray background"
SMALL = {"num_frames": 5, "size": "32x32", "num_steps": 2, "num_guided_steps": 1, "baseline": False}
OPTIONS = ["--num-frames=5", "--size=32x32", "--num-steps=2", "--num-guided-steps=1", "--no-baseline"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(ToyWorld(3, num_objects=1)[1].frames[0].numpy()).save(path)
    return path


@pytest.fixture
def text_model(tmp_path):
    """A copy of wan-tiny as a model of another architecture, which takes no image."""
    folder = shutil.copytree(BUNDLED["wan-tiny"], tmp_path / "model")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"rope_max_seq_len": 128}))
    return folder


def first_latents(image):
    return load_backbone().encode(fit(read_image(image)[None], (32, 32)))[0]


def test_a_transfer_begins_with_the_image(succeed, clip, image):
    succeed("transfer", clip, PROMPT, "--image", image, *OPTIONS, "--output", "out")
    latents = load_file("out/latents.safetensors")["latents"]
    assert torch.equal(latents[:, :1], first_latents(image))
    first, wanted = read_clip("out/output.mp4", 5).frames[0], fit(read_image(image)[None], first_size("out"))
    shown = (wanted[0, :, 0].permute(1, 2, 0) + 1) * 127.5
    assert (first.float() - shown).abs().mean() < 10


def first_size(folder):
    return tuple(read_clip(f"{folder}/output.mp4", 5).frames.shape[1:3])


def test_a_sample_begins_with_the_image(succeed, image):
    succeed("sample", PROMPT, "--image", image, "--num-frames=5", "--size=32x32", "--num-steps=2", "--output", "out")
    succeed("sample", PROMPT, "--num-frames=5", "--size=32x32", "--num-steps=2", "--output", "plain")
    with_image, plain = (read_clip(f"{name}/output.mp4", 5).frames.float() for name in ("out", "plain"))
    assert (with_image - plain).abs().mean() > 5
    assert str(image) in yaml.safe_load(Path("out/config.yaml").read_text())["image"]


def test_a_list_has_a_column_for_images(succeed, refused, clip, image, tmp_path):
    rows = [
        {"name": "one", "clip": str(clip), "prompt": PROMPT, "image": "image.png"},  # relative to the list
        {"name": "two", "clip": str(clip), "prompt": PROMPT, "image": str(image), "seed": 1},
        {"name": "plain", "clip": str(clip), "prompt": PROMPT},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    succeed("transfer", "--jobs", path, *OPTIONS, "--output", "out")
    found = {row["name"]: load_file(f"out/jobs/{row['name']}/latents.safetensors")["latents"] for row in rows}
    for name in ("one", "two"):
        assert torch.equal(found[name][:, :1], first_latents(image))
    assert not torch.equal(found["plain"][:, :1], first_latents(image))
    Image.new("RGB", (48, 48)).save(image)  # another image is another job
    line = refused("transfer", "--jobs", path, *OPTIONS, "--output", "out", code=1)
    assert "one" in line
    assert "two" in line
    assert "plain" not in line


def test_from_python_it_is_a_file_or_pixels(clip, image):
    by_path = transfer(clip, PROMPT, image=image, **SMALL)
    by_pixels = transfer(clip, PROMPT, image=read_image(image), **SMALL)
    assert torch.equal(by_path.latents, by_pixels.latents)
    assert torch.equal(by_path.latents[0, :, :1], first_latents(image))
    with pytest.raises(UserError, match="float32"):
        transfer(clip, PROMPT, image=read_image(image).float(), **SMALL)


def test_a_run_with_another_image_is_another_run(clip, image, tmp_path):
    folder = tmp_path / "run"
    pixels = read_image(image)
    transfer(clip, PROMPT, image=pixels, output=folder, **SMALL)
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="images"):
        transfer(clip, PROMPT, image=pixels.flip(0), output=folder, **SMALL)
    transfer(clip, PROMPT, image=pixels, output=folder, **SMALL)


@pytest.mark.parametrize("command", [["transfer", "CLIP", PROMPT], ["sample", PROMPT]])
@pytest.mark.parametrize("kind", ["missing", "broken", "tiny", "animated"])
def test_an_image_that_cannot_be_used_is_refused(refused, clip, tmp_path, command, kind):
    path = tmp_path / f"{kind}.gif"
    if kind == "broken":
        path.write_bytes(b"GIF89a and no more")
    elif kind != "missing":
        frames = [Image.new("RGB", (1, 1) if kind == "tiny" else (32, 32), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:] if kind == "animated" else [])
    line = refused(*[clip if word == "CLIP" else word for word in command], "--image", path, "--output", "out")
    assert path.name in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["transfer", "CLIP", PROMPT], ["sample", PROMPT]])
def test_a_model_of_text_alone_refuses_an_image_by_name(refused, clip, image, text_model, tmp_path, command):
    words = [clip if word == "CLIP" else word for word in command]
    line = refused(
        *words, "--image", image, "--model", text_model, "--config", CONFIGS / "wan_tiny.yaml", "--output", "out"
    )
    assert str(text_model) in line
    assert not (tmp_path / "out").exists()
