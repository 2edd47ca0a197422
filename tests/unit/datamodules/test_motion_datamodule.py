import logging
import resource
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.clips import Clip, ClipError
from fastvmt_pl.clips.video_reader import ClipReader
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import AttentionFlow, MotionFlowLoss

PROMPT, OTHER = "a red circle on a gray background", "a blue cross on a navy background"
SETTINGS = AttentionFlow(block=1, window=5)


@pytest.fixture(scope="module")
def backbone():
    return DiffusersBackbone("wan-tiny")


@pytest.fixture
def work(backbone, monkeypatch):
    """What the backbone is made to do: the number of clips encoded, and of noise levels read."""
    done = SimpleNamespace(encoded=0, read=[])
    encode, capture = backbone.encode, backbone.capture

    def counted_encode(video):
        done.encoded += len(video)
        return encode(video)

    def counted_capture(latents, *args, **kwargs):
        done.read.append(len(latents))
        return capture(latents, *args, **kwargs)

    monkeypatch.setattr(backbone, "encode", counted_encode)
    monkeypatch.setattr(backbone, "capture", counted_capture)
    return done


@pytest.fixture
def prepare(backbone, tmp_path, toy_clips):
    """Makes a datamodule and sets it up as a trainer would."""

    def prepared(clips=None, prompts=(PROMPT,), module_options=None, **options):
        options = {"num_frames": 5, "size": (48, 48), "motion": SETTINGS, "cache_dir": tmp_path / "cache", **options}
        data = MotionDataModule([toy_clips[0]] if clips is None else clips, list(prompts), **options)
        module = MotionTransfer(
            backbone, **{"num_steps": 4, "num_guided_steps": 3, "num_inner_steps": 2, **(module_options or {})}
        )
        data.trainer = Trainer(
            accelerator="cpu", max_epochs=module.num_guided_steps, logger=False, enable_checkpointing=False
        )
        data.trainer.strategy.connect(module)
        data.setup("fit")
        return data

    return prepared


def assert_same(first, second, **tolerance):
    assert len(first.targets) == len(second.targets)
    for one, other in zip(first.targets, second.targets, strict=True):
        (feature, mine), (same, theirs) = one.of(None), other.of(None)
        torch.testing.assert_close(mine["flow"], theirs["flow"], **tolerance)
        assert torch.equal(mine["centres"], theirs["centres"])
        assert (one.grid, one.num_frames, feature) == (other.grid, other.num_frames, same)
    torch.testing.assert_close(first.jobs.reference, second.jobs.reference, **tolerance)


def flow_of(target):
    return target.of(None)[1]["flow"]


def cached(tmp_path):
    return list((tmp_path / "cache").iterdir())


def test_a_file_of_several_jobs_is_read_once(prepare, toy_clips, tmp_path, monkeypatch):
    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", toy_clips[number].frames, 8.0)
    files, read, original = [tmp_path / f"{number}.mp4" for number in (0, 1, 0)], [], ClipReader.read
    monkeypatch.setattr(ClipReader, "read", lambda self, frames: (read.append(self.path), original(self, frames))[1])
    data = prepare(files, [PROMPT, OTHER, OTHER])
    assert sorted(read) == files[:2]
    assert [clip.name for clip in data.clips] == [str(file) for file in files]


def test_a_target_for_every_guided_step(prepare):
    data = prepare()
    assert len(data.targets) == 3
    target = data.targets[0]
    assert target.grid == (12, 12)
    assert target.num_frames == data.jobs.reference.shape[2]
    flow = target.of(None)[1]["flow"]
    assert flow.shape == (1, len(SETTINGS.pairs(target.num_frames).first), 144, 2)
    assert not torch.equal(flow, data.targets[2].of(None)[1]["flow"])  # read at another noise level
    assert data.clips[0].fps == 8


def test_an_epoch_holds_the_inner_steps_of_the_guided_step_that_the_module_is_at(prepare):
    data = prepare()
    for step in range(3):
        data.trainer.lightning_module.step = step
        batches = list(data.train_dataloader())
        assert len(batches) == 2
        assert all(batch is data.targets[step] for batch in batches)


def test_what_is_cached_is_what_was_extracted(prepare, work):
    fresh, again = prepare(), prepare()
    assert_same(fresh, again, atol=0, rtol=0)
    assert (work.encoded, work.read) == (1, [1, 1, 1])


def test_new_prompts_and_seeds_extract_nothing_and_say_so(prepare, work, caplog):
    prepare()
    work.encoded, work.read = 0, []
    with caplog.at_level(logging.INFO):
        data = prepare(prompts=[OTHER], seed=5)
        prepare(prompts=[OTHER, PROMPT, OTHER], seed=9)
    assert (work.encoded, work.read) == (0, [])
    assert caplog.text.count("nothing was extracted") == 2
    assert data.jobs.prompts == (OTHER,)
    assert data.jobs.seeds == (5,)


@pytest.mark.parametrize(
    "change",
    [
        {"motion": AttentionFlow(block=2, window=5)},
        {"motion": AttentionFlow(block=1, window=7)},
        {"motion": AttentionFlow(block=1, window=5, temperature=2.0)},
        {"size": (48, 64)},
        {"reference_timestep": 100.0},
        {"module_options": {"num_steps": 5}},
        {"module_options": {"strength": 1.0}},
        {"module_options": {"num_guided_steps": 2}},
    ],
)
def test_whatever_changes_the_motion_extracts_again(prepare, work, tmp_path, change):
    prepare()
    before, entries = len(work.read), len(cached(tmp_path))
    prepare(**change)
    assert len(work.read) > before
    assert len(cached(tmp_path)) > entries


def test_another_clip_and_other_weights_extract_again(prepare, work, toy_clips, backbone, monkeypatch):
    prepare()
    prepare([toy_clips[1]])
    monkeypatch.setattr(backbone, "fingerprint", lambda: "other weights")
    prepare()
    assert work.encoded == 3


def test_the_content_of_a_clip_counts_and_not_its_name(prepare, work, toy_clips):
    prepare()
    prepare([Clip(toy_clips[0].frames, 8.0, "another name")])
    assert work.encoded == 1


def test_another_feature_does_not_encode_again(prepare, work):
    prepare()
    prepare(motion=AttentionFlow(block=2, window=5))
    assert work.encoded == 1


def test_losses_with_features_of_their_own_are_read_in_the_same_passes(prepare, work):
    other = AttentionFlow(block=2, window=5)
    data = prepare(module_options={"losses": [MotionFlowLoss(), MotionFlowLoss(feature=other)]})
    assert work.read == [1, 1, 1]
    alone = prepare(motion=other)
    for both, one in zip(data.targets, alone.targets, strict=True):
        torch.testing.assert_close(both.of(other)[1]["flow"], one.of(None)[1]["flow"])


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
def test_a_damaged_cache_is_extracted_again_with_a_warning(prepare, work, tmp_path, damage):
    fresh = prepare()
    entries = cached(tmp_path)
    for path in entries:
        path.write_bytes({"cut": path.read_bytes()[:100], "empty": b"", "garbage": bytes(5000)}[damage])
    with pytest.warns(UserWarning, match="damaged"):
        again = prepare()
    assert work.encoded == 2
    assert_same(fresh, again, atol=0, rtol=0)
    names = [set(load_file(path)) for path in entries]
    assert {"latents"} in names
    assert {"flow", "centres", "token_shape"} in names


def test_an_interrupted_write_leaves_no_cache(prepare, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cached(tmp_path) == []


def test_equal_noise_levels_are_read_once(prepare, work):
    data = prepare(reference_timestep=100.0)
    assert work.read == [1]
    assert len(data.targets) == 3
    assert torch.equal(flow_of(data.targets[0]), flow_of(data.targets[2]))


@pytest.mark.parametrize(("batch", "read"), [(2, [2, 1]), (3, [3]), (30, [3])])
def test_batched_extraction_is_extraction_one_at_a_time(prepare, work, tmp_path, batch, read):
    alone = prepare(cache_dir=tmp_path / "alone")
    work.read = []
    together = prepare(extraction_batch=batch)
    assert work.read == read
    assert_same(alone, together, atol=2e-3, rtol=1e-3)


def test_one_clip_serves_several_prompts(prepare, work):
    data = prepare(prompts=[PROMPT, OTHER], seed=3)
    assert (work.encoded, work.read) == (1, [1, 1, 1])
    assert data.jobs.seeds == (3, 4)
    assert len(data.clips) == 2
    assert len(data.jobs.reference) == 2
    assert torch.equal(*data.jobs.reference)
    assert len(flow_of(data.targets[0])) == 1  # the losses spread it over the jobs


def test_a_clip_for_each_prompt(prepare, work, toy_clips):
    data = prepare(toy_clips[:2], [PROMPT, OTHER])
    alone = [prepare([clip]) for clip in toy_clips[:2]]
    assert work.encoded == 2
    assert len(flow_of(data.targets[0])) == 2
    for job in range(2):
        assert data.clips[job] is toy_clips[job]
        assert torch.equal(flow_of(data.targets[1])[job], flow_of(alone[job].targets[1])[0])
        assert torch.equal(data.jobs.reference[job], alone[job].jobs.reference[0])


def test_some_jobs_are_prepared_as_all_are(prepare, toy_clips):
    images = [clip.frames[0] for clip in toy_clips[:3]]
    masks = torch.zeros(5, 48, 48, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    every = prepare(prompts=[PROMPT, OTHER, PROMPT], images=images, region=masks, place=[1.0, 4.0, 2.0])
    some = every.of_jobs(range(1, 3))
    some.setup("fit")
    assert (some.prompts, some.seeds) == ((OTHER, PROMPT), [1, 2])
    assert torch.equal(some.jobs.images, every.jobs.images[1:])
    for target, of_all in zip(some.targets, every.targets, strict=True):
        assert torch.equal(flow_of(target), flow_of(of_all)[1:])


def test_each_jobs_own_noise_gives_each_job_its_own_motion(prepare, work):
    data = prepare(prompts=[PROMPT, OTHER], seed=3, reference_noise="job")
    assert (work.encoded, len(work.read)) == (1, 6)
    assert len(flow_of(data.targets[0])) == 2
    assert not torch.equal(*flow_of(data.targets[0]))
    second = prepare(prompts=[OTHER], seed=4, reference_noise="job")
    assert len(work.read) == 6  # the second job's motion, found again by its seed
    assert torch.equal(flow_of(second.targets[0])[0], flow_of(data.targets[0])[1])


def test_a_file_is_read_as_its_frames_would_be(prepare, toy_clips, tmp_path):
    write_video(tmp_path / "toy.mp4", toy_clips[0].frames, 8.0)
    data = prepare([tmp_path / "toy.mp4"])
    assert data.clips[0].name == str(tmp_path / "toy.mp4")
    assert (data.clips[0].frames.int() - toy_clips[0].frames.int()).abs().float().mean() < 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "no prompt"),
        ({"num_clips": 2, "prompts": [PROMPT]}, "2 clips for 1 prompts"),
        ({"num_clips": 2, "prompts": [PROMPT] * 3}, "2 clips for 3 prompts"),
        ({"prompts": [PROMPT, "  "]}, "prompt 2 is empty"),
        ({"start": -1.0}, "0 <= start < end"),
        ({"start": 2.0, "end": 2.0}, "0 <= start < end"),
        ({"reference_timestep": 1001.0}, "0 to 1000"),
        ({"reference_timestep": -1.0}, "0 to 1000"),
        ({"extraction_batch": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(toy_clips, options, message):
    options = dict(options)
    clips, prompts = toy_clips[: options.pop("num_clips", 1)], options.pop("prompts", [PROMPT])
    with pytest.raises(ValueError, match=message):
        MotionDataModule(clips, prompts, **options)


def test_clips_that_are_no_files_are_refused_at_once(tmp_path):
    (tmp_path / "empty.mp4").touch()
    for path in (tmp_path, tmp_path / "no.mp4", tmp_path / "empty.mp4"):
        with pytest.raises(ClipError, match=path.name):
            MotionDataModule([path], [PROMPT])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 6}, "example 5"),
        ({"num_frames": 9}, "5 frames; set num_frames"),
        ({"size": (50, 48)}, "example 48"),
        ({"motion": AttentionFlow(block=14)}, "0 to 5"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_weights_are_read(prepare, backbone, monkeypatch, options, message):
    for part in ("transformer", "vae", "text_pipeline"):
        vars(backbone).pop(part, None)
        monkeypatch.setattr(DiffusersBackbone, part, property(lambda self: pytest.fail("weights were read")))
    with pytest.raises(ValueError, match=message):
        prepare(**options)
