import pytest
import torch

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.options import default_config
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_tracker import score
from fastvmt_pl.toy.toy_world import FPS, Appearance, prompt_for

FEWER_STEPS = {"model.num_steps": 12, "model.num_guided_steps": 8}


@pytest.mark.parametrize(
    ("num_jobs", "changes"), [(1, FEWER_STEPS), pytest.param(2, {}, marks=pytest.mark.slow)], ids=["fewer steps", "all"]
)
def test_the_shipped_config_moves_the_prompted_object_as_the_clip_moves(tmp_path, num_jobs, changes):
    """The whole job at its full size, against the true path of the clip's object."""
    world = ToyWorld(100, num_objects=1, camera=False, paths=("linear", "arc", "sine", "bounce"))
    clips = [world[number] for number in (3, 4)[:num_jobs]]
    asked = [(Appearance("white", "cross"), "black"), (Appearance("orange", "circle"), "black")][:num_jobs]
    for number, clip in enumerate(clips):
        write_video(tmp_path / f"{number}.mp4", clip.frames, FPS)
    settings = {
        "data.clips": [str(tmp_path / f"{number}.mp4") for number in range(num_jobs)],
        "data.prompts": [prompt_for([item], background) for item, background in asked],
        "data.keep_motion": False,
        "data.seed": 3,
    } | changes
    cli = compose(merged(read_config(default_config("wan-tiny")), settings))
    cli.trainer.fit(cli.model, cli.datamodule)
    result = cli.model.result
    guided, plain = (
        [
            score(video, item, background, clip.trajectories[0], clip.objects[0].colour)
            for video, (item, background), clip in zip(videos, asked, clips, strict=True)
        ]
        for videos in (result.frames, result.baseline)
    )
    errors, unguided = (torch.tensor([each.path_error for each in scores]) for scores in (guided, plain))
    assert (errors < 0.6).all()
    assert (errors < 0.6 * unguided).all()
    for each in guided:
        assert min(each.present, each.background, each.leak_free) > 0.8, each
