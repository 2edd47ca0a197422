"""The motion of a part of a clip, at its place or another, by the command line and from Python."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fastvmt_pl import transfer
from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.video_writing import write_picture, write_video
from fastvmt_pl.errors import UserError
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_tracker import colour_mask

PROMPT = "a red circle on a gray background"
SMALL = {"num_frames": 5, "num_steps": 2, "num_guided_steps": 1, "baseline": False}
OPTIONS = ["--num-frames=5", "--num-steps=2", "--num-guided-steps=1", "--no-baseline"]


@pytest.fixture(scope="module")
def toy():
    return ToyWorld(3, num_objects=1, camera=False)[1]


@pytest.fixture
def clip(toy, tmp_path):
    path = tmp_path / "moving.mp4"
    write_video(path, toy.frames, 8.0)
    return path


@pytest.fixture
def masks(toy):
    return colour_mask(toy.frames, toy.objects[0].colour)


@pytest.fixture
def box(masks):
    rows, columns = masks[0].nonzero().unbind(1)
    return f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"


def latents_of(folder):
    return load_file(f"{folder}/latents.safetensors")["latents"]


def measured(folder):
    (job,) = json.loads(Path(folder, "metrics.json").read_text())["jobs"]
    return job


def test_a_box_is_followed_and_shown(succeed, clip, box):
    succeed("transfer", clip, PROMPT, "--region", box, *OPTIONS, "--output", "out")
    job = measured("out")
    assert (job["region"], job["region_of"], job["place"]) == (box, "subject", None)
    assert Image.open("out/region.png").size == (3 * 48, 2 * 48)


def test_region_place_and_background_change_the_video(succeed, clip, box):
    places = {
        "plain": (),
        "region": ("--region", box),
        "moved": ("--region", box, "--place", "0.8,3,-2"),
        "background": ("--region", box, "--region-of", "background"),
    }
    for name, words in places.items():
        succeed("transfer", clip, PROMPT, *words, *OPTIONS, "--output", name)
    found = {name: latents_of(name) for name in places}
    assert not torch.equal(found["region"], found["moved"])
    assert not torch.equal(found["plain"], found["moved"])
    assert not torch.equal(found["region"], found["background"])
    assert measured("moved")["place"]["scale"] == 0.8


def test_the_background_without_a_region_is_all_that_does_not_move(succeed, clip):
    for name, words in {"alone": (), "auto": ("--region=auto",)}.items():
        succeed("transfer", clip, PROMPT, "--region-of=background", *words, *OPTIONS, "--output", name)
    assert measured("alone")["region"] == "auto"
    assert torch.equal(latents_of("alone"), latents_of("auto"))


def test_masks_from_python_are_those_of_a_file(clip, masks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "masks"
    for number, mask in enumerate(masks):
        write_picture(folder / f"{number:02d}.png", (mask[..., None].expand(-1, -1, 3) * 255).to(torch.uint8))
    read = read_clip(clip, 5)
    numbers = [0, 4, 8, 12, 16]
    from_file = transfer(clip, PROMPT, region=folder, **SMALL)
    given = transfer(read, PROMPT, region=masks[numbers], **SMALL)
    assert torch.equal(from_file.latents, given.latents)


def test_an_image_and_a_region_find_their_place(clip, box, tmp_path):
    image = torch.full((48, 48, 3), 60, dtype=torch.uint8)
    image[10:22, 26:38] = torch.tensor([220, 60, 40], dtype=torch.uint8)
    transfer(clip, PROMPT, image=image, region=box, output=tmp_path / "out", **SMALL)
    job = measured(tmp_path / "out")
    assert job["image"] == "pixels"
    assert 0.5 < job["place"]["scale"] < 2
    assert (tmp_path / "out" / "image.png").exists()
    same = transfer(clip, PROMPT, image=image, region=box, place="same", **SMALL)
    assert not torch.equal(same.latents, latents_of(tmp_path / "out"))


def test_a_changed_mask_is_another_run(succeed, refused, clip, masks, tmp_path):
    path = tmp_path / "mask.png"
    write_picture(path, (masks[0][..., None].expand(-1, -1, 3) * 255).to(torch.uint8))
    words = ("transfer", clip, PROMPT, "--region", path, *OPTIONS, "--output", "out")
    succeed(*words)
    Path("out/metrics.json").unlink()
    succeed(*words)
    Path("out/metrics.json").unlink()
    write_picture(path, torch.full((48, 48, 3), 255, dtype=torch.uint8))
    assert "data.region" in refused(*words)


def test_a_list_has_columns_for_region_and_place(refused, clip, box, masks, tmp_path):
    write_picture(tmp_path / "mask.png", (masks[0][..., None].expand(-1, -1, 3) * 255).to(torch.uint8))
    rows = [
        {"name": "box", "clip": str(clip), "prompt": PROMPT, "region": box, "place": "0.8,3,-2"},
        {"name": "mask", "clip": str(clip), "prompt": PROMPT, "region": "mask.png"},  # relative to the list
        {"name": "bad", "clip": str(clip), "prompt": PROMPT, "region": "90,0,99,9"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused("transfer", "--jobs", path, *OPTIONS, "--output", "out", code=1)
    assert measured("out/jobs/box")["place"]["scale"] == 0.8
    assert Path("out/jobs/mask/region.png").exists()
    assert "48 x 48" in Path("out/results.csv").read_text()


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--region=90,0,99,9"], "48 x 48"),
        (["--region=missing.png"], "missing.png"),
        (["--region="], "region"),
        (["--region=words.png"], "words.png"),
        (["--region=1,2,3"], "1,2,3"),
        (["--place=0.5,0,0"], "region"),
        (["--region=4,4,40,40", "--place=left"], "left"),
        (["--region=4,4,20,20", "--place=9,0,0"], "leaves the frame"),
        (["--region=4,4,20,20", "--place=0.01,0,0"], "0.01"),
        (["--region=4,4,20,20", "--place=auto"], "image"),
        (["--region=4,4,20,20", "--place=0.5,0,0", "--region-of=background"], "background"),
        (["--motion-strength=-1"], "motion_strength"),
        (["--output-fps=0"], "output_fps"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_read(refused, clip, words, named):
    Path("words.png").write_text("words")  # which is YAML too
    assert named in refused("transfer", clip, PROMPT, *words, "--num-frames=5", "--output", "out")
    assert not Path("out").exists()


def test_motion_strength_is_a_share_of_the_guided_steps(succeed, clip):
    base = ["--num-frames=5", "--num-steps=6", "--no-baseline"]
    steps = {}
    for strength in ("0", "0.5", "1", "3"):
        succeed("transfer", clip, PROMPT, *base, "--motion-strength", strength, "--output", strength)
        steps[strength] = measured(strength)["gradients_computed"] + measured(strength)["gradients_reused"]
    assert {name: number // 6 for name, number in steps.items()} == {"0": 0, "0.5": 2, "1": 4, "3": 6}


def test_motion_strength_and_guided_steps_exclude_each_other(clip):
    with pytest.raises(UserError, match="motion_strength"):
        transfer(clip, PROMPT, motion_strength=0.5, **SMALL)


def test_the_frame_rate_of_the_output_is_said_and_set(succeed, clip):
    succeed("transfer", clip, PROMPT, *OPTIONS, "--output-fps=4", "--output", "slow")
    succeed("transfer", clip, PROMPT, *OPTIONS, "--output", "same")
    slow, same = measured("slow"), measured("same")
    assert (slow["fps"], slow["duration"]) == (4, 1.25)
    assert same["speed"] == 1
    assert slow["speed"] == pytest.approx(4 / same["fps"], abs=1e-3)
    assert read_clip("slow/output.mp4", 5).fps == pytest.approx(4)
    assert torch.equal(latents_of("slow"), latents_of("same"))
