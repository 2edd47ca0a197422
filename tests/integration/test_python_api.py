"""``fastvmt_pl`` as a library, as the README writes it."""

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from fastvmt_pl import Clip, DiffusersBackbone, read_clip, transfer
from fastvmt_pl.errors import UserError
from fastvmt_pl.runs.options import default_config

PROMPT = "a red circle on a gray background"
SMALL = {"num_frames": 5, "size": "32x32", "num_steps": 2, "num_guided_steps": 1, "baseline": False}


@pytest.fixture(scope="module")
def backbone():
    return DiffusersBackbone("wan-tiny")


def test_a_transfer_gives_frames_latents_and_scores_and_leaves_no_trace(clip, tmp_path, capfd, recwarn):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric", "root")}
    made = transfer(clip, PROMPT, **{**SMALL, "baseline": True})
    assert (made.frames.dtype, made.frames.shape) == (torch.uint8, (1, 5, 32, 32, 3))
    assert made.baseline.shape == made.frames.shape
    assert made.latents.shape[0] == 1
    assert (made.prompts, made.seeds) == ((PROMPT,), (0,))
    (scores,) = made.scores
    assert set(scores) >= {"motion_fidelity", "flow_error", "temporal_consistency", "appearance_leak"}
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    of_others = (ResourceWarning,)  # of objects that earlier tests left, collected meanwhile
    assert [str(each.message) for each in recwarn.list if not issubclass(each.category, of_others)] == []
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}  # where other libraries keep things
    assert not list((tmp_path / "cache").glob("fastvmt*"))
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert {name: logging.getLogger(name).level for name in levels} == levels


def test_objects_stand_for_paths(clip, backbone):
    read = read_clip(clip, 5)
    by_path = transfer(clip, PROMPT, **SMALL)
    by_clip = transfer(read, PROMPT, model=backbone, **{**SMALL, "num_frames": None})
    by_frames = transfer(read.frames, PROMPT, fps=read.fps, model=backbone, config=default_config("wan-tiny"), **SMALL)
    assert torch.equal(by_path.latents, by_clip.latents)
    assert torch.equal(by_path.latents, by_frames.latents)
    assert by_frames.fps == read.fps


def test_several_prompts_make_a_video_each(clip, backbone):
    other = "a blue cross on a navy background"
    both = transfer(clip, [PROMPT, other], seed=3, model=backbone, **SMALL)
    assert (both.prompts, both.seeds, len(both.frames), len(both.scores)) == ((PROMPT, other), (3, 4), 2, 2)


def test_a_config_may_be_a_dict_and_any_setting_has_its_one_name(clip, backbone):
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    config["data"]["motion"]["window"] = 3
    by_config = transfer(clip, PROMPT, model=backbone, config=config, **SMALL)
    by_name = transfer(clip, PROMPT, model=backbone, settings={"data.motion.window": 3}, **SMALL)
    plain = transfer(clip, PROMPT, model=backbone, **SMALL)
    assert torch.equal(by_config.latents, by_name.latents)
    assert not torch.equal(by_config.latents, plain.latents)


def test_fused_guidance_is_a_setting(clip, backbone):
    small = {"num_frames": 5, "num_steps": 2, "num_guided_steps": 2, "baseline": False, "seed": 1}
    fused = transfer(clip, "a blue cross on a navy background", model=backbone, guidance="fused", **small)
    apart = transfer(clip, "a blue cross on a navy background", model=backbone, **small)
    assert not torch.equal(fused.latents, apart.latents)
    with pytest.raises(UserError, match="guidance"):
        transfer(clip, "a blue cross", model=backbone, guidance="none", **small)


def test_it_writes_where_it_is_told(clip, backbone, tmp_path):
    first = transfer(clip, PROMPT, model=backbone, output=tmp_path / "out", cache_dir=tmp_path / "motion", **SMALL)
    assert {path.name for path in tmp_path.iterdir()} >= {"out", "motion"}
    assert list((tmp_path / "motion").glob("*.safetensors"))
    assert (tmp_path / "out" / "output.mp4").exists()
    with pytest.raises(UserError, match="out"):
        transfer(clip, PROMPT, model=backbone, output=tmp_path / "out", **SMALL)
    (tmp_path / "out" / "metrics.json").unlink()
    again = transfer(clip, PROMPT, model=backbone, output=tmp_path / "out", **SMALL)
    assert torch.equal(first.latents, again.latents)


def test_a_run_with_objects_continues_only_with_the_same_ones(clip, backbone, tmp_path):
    read = read_clip(clip, 5)
    transfer(read, PROMPT, model=backbone, output=tmp_path / "out", **SMALL)
    (tmp_path / "out" / "metrics.json").unlink()
    transfer(Clip(read.frames, read.fps, "renamed"), PROMPT, model=backbone, output=tmp_path / "out", **SMALL)
    (tmp_path / "out" / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"data\.clips"):
        transfer(Clip(255 - read.frames, read.fps, "other"), PROMPT, model=backbone, output=tmp_path / "out", **SMALL)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"settings": {"model.num_stepz": 3}}, "num_stepz"),
        ({"settings": {"data.prompts": ["a dog"]}}, "data.prompts"),
        ({"settings": {"model.num_inner_steps": "many"}}, "many"),
        ({"prompt": " "}, "prompt"),
        ({"clip": torch.zeros(5, 48, 48, 3)}, "float32"),
        ({"clip": torch.zeros(5, 48, 48, 3, dtype=torch.uint8)}, "fps"),
        ({"clip": "missing.mp4"}, "missing.mp4"),
        ({"config": "missing.yaml"}, "missing.yaml"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"loras": {"a.safetensors": 0.5}}, "loras"),
    ],
)
def test_a_mistake_is_a_user_error_that_names_it(clip, backbone, change, named):
    with pytest.raises(UserError, match=named):
        transfer(**{"clip": clip, "prompt": PROMPT, "model": backbone, **SMALL, **change})


def test_a_tiny_image_is_refused(clip):
    with pytest.raises(UserError, match="16 pixels"):
        transfer(clip, PROMPT, image=torch.zeros(1, 1, 3, dtype=torch.uint8), num_frames=5)


def test_the_package_is_imported_without_its_libraries_and_its_names_are_found():
    code = "import sys, fastvmt_pl; assert 'torch' not in sys.modules; print(*fastvmt_pl.__all__)"
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    import fastvmt_pl

    assert all(getattr(fastvmt_pl, name) for name in names)
    with pytest.raises(AttributeError, match="nothing"):
        fastvmt_pl.nothing  # noqa: B018


def test_the_shipped_files_are_found_from_anywhere():
    assert Path(default_config("wan-tiny")).is_file()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_framess": 5}, "num_framess"),
        ({"callbacks": []}, "callbacks"),
        ({"num_steps": "3x"}, "num_steps"),
        ({"num_steps": 2.5}, "num_steps"),
        ({"baseline": "perhaps"}, "baseline"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("no_weights")
def test_an_option_that_is_none_or_of_another_type_is_refused(clip, options, named):
    with pytest.raises(UserError, match=named):
        transfer(clip, PROMPT, **options)


@pytest.mark.usefixtures("no_weights")
def test_no_prompt_is_refused(clip):
    with pytest.raises(UserError, match="no prompt"):
        transfer(clip, [])
