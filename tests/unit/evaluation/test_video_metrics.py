import math

import pytest
import torch
from torchmetrics import MetricCollection

from fastvmt_pl.evaluation import (
    AppearanceLeak,
    DenseFlow,
    FlowEndpointError,
    LucasKanade,
    MotionFidelity,
    PublishedMotionFidelity,
    TemporalConsistency,
)
from fastvmt_pl.evaluation.appearance import appearance_leak
from fastvmt_pl.evaluation.functional import (
    flow_endpoint_error,
    motion_fidelity,
    published_motion_fidelity,
    temporal_consistency,
)
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_metric import ToyPathError


@pytest.fixture(scope="module")
def videos():
    world = ToyWorld(44, num_objects=1, camera=False, paths=("linear", "arc"))
    return [world[number].frames[:6] for number in range(3)]


def fidelity(tracker, reach):
    return lambda reference, output: motion_fidelity(tracker.track(reference), tracker.track(output), reach)


def published(tracker):
    return lambda *pair: published_motion_fidelity(*(tracker.track(video).points for video in pair))


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        (MotionFidelity(), fidelity(LucasKanade(), math.inf)),
        (MotionFidelity(DenseFlow(), reach=12.0), fidelity(DenseFlow(), 12.0)),
        (PublishedMotionFidelity(DenseFlow()), published(DenseFlow())),
        (FlowEndpointError(), lambda *pair: flow_endpoint_error(*pair)[1]),
        (FlowEndpointError(relative=False), lambda *pair: flow_endpoint_error(*pair)[0]),
        (AppearanceLeak(), lambda reference, output: appearance_leak(reference, output)),
    ],
)
def test_a_metric_averages_its_function_over_pairs(videos, metric, function):
    pairs = [(videos[0], videos[1]), (videos[0], videos[2])]
    values = [function(*pair) for pair in pairs]
    assert float(metric(*pairs[0])) == pytest.approx(values[0])
    metric.update(*pairs[1])
    assert float(metric.compute()) == pytest.approx(sum(values) / 2)
    metric.reset()
    assert metric.count == 0


def test_consistency_and_leak_take_what_they_need(videos):
    metric = TemporalConsistency()
    assert float(metric(videos[1])) == pytest.approx(temporal_consistency(videos[1]))
    leak = AppearanceLeak()
    assert float(leak(videos[0], videos[0], videos[1])) == pytest.approx(1.0)
    assert float(leak(videos[0], videos[1], videos[1])) == 0


def test_videos_without_a_score_do_not_count():
    plain = torch.full((4, 32, 32, 3), 90, dtype=torch.uint8)
    metric = MotionFidelity()
    metric.update(plain, plain)
    assert metric.count == 0
    assert metric.compute().isnan()


def test_metrics_of_a_collection_are_not_merged_after_equal_scores(videos):
    metrics = {"all": MotionFidelity(), "near": MotionFidelity(reach=1.0), "leak": AppearanceLeak()}
    together = MetricCollection(metrics)
    alone = {name: metric.clone() for name, metric in metrics.items()}
    for pair in [(videos[0], videos[0]), (videos[0], videos[1])]:  # a clip against itself scores 1 by all
        together.update(*pair)
        for metric in alone.values():
            metric.update(*pair)
    assert together.compute() == {name: metric.compute() for name, metric in alone.items()}
    assert len(set(together.compute().values())) == 3


def test_two_processes_average_over_all_videos(videos):
    def other(state, group):
        """What the other process has, gathered beside one's own: two videos that score 0."""
        return [state, theirs.pop(0)]

    metric = AppearanceLeak(dist_sync_fn=other, distributed_available_fn=lambda: True)
    theirs = [torch.tensor(0.0), torch.tensor(2), torch.tensor(7)]  # total, count, number
    metric.update(videos[0], videos[0])
    assert float(metric.compute()) == pytest.approx(1 / 3)


def test_the_true_path_of_a_toy_clip_has_no_error():
    clip = ToyWorld(45, num_objects=1, camera=False, paths=("linear",))[0]
    metric = ToyPathError()
    assert float(metric(clip.frames, clip.objects[0].colour, clip.trajectories[0])) < 0.05
    still = clip.frames[:1].repeat(17, 1, 1, 1)
    assert float(metric(still, clip.objects[0].colour, clip.trajectories[0])) == pytest.approx(1.0, abs=1e-4)
