import importlib.util
from pathlib import Path

import pytest
import torch

from fastvmt_pl.objectives import motion_flow as flow_module
from fastvmt_pl.objectives.attention_flow import squared_flow_difference
from fastvmt_pl.objectives.frame_pairs import frame_pairs
from fastvmt_pl.objectives.motion_flow import global_motion_flow, window_centres, windowed_motion_flow
from fastvmt_pl.objectives.window import window_distances

spec = importlib.util.spec_from_file_location("naive", Path(__file__).parent / "naive.py")
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)

GRIDS = [(4, 5), (6, 8), (3, 4), (7, 3)]
"""Grids that tiles of 3 x 4 divide, and grids that they do not."""


def tokens(grid, jobs=2, frames=4, heads=2, dim=6, dtype=torch.float32):
    make = [torch.randn(jobs, frames, grid[0] * grid[1], heads, dim) * 2 for _ in range(2)]
    return [x.to(dtype).requires_grad_() for x in make]


def windowed(query, key, pairs, grid, **settings):
    centres = window_centres(query, key, pairs, grid, tile=(3, 4), temperature=settings.get("temperature", 1.0))
    return windowed_motion_flow(query, key, pairs, grid, centres, tile=(3, 4), **settings)


@pytest.mark.parametrize("grid", GRIDS)
def test_global_flow_is_that_of_the_loops(grid):
    query, key = tokens(grid)
    pairs = frame_pairs(4, span=3)
    flow = global_motion_flow(query, key, pairs, grid, temperature=2.0)
    for job in range(2):
        for p, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
            torch.testing.assert_close(flow[job, p], naive.global_flow(query, key, i, j, job, grid, 2.0))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("window", [1, 3, 4])
def test_windowed_flow_is_that_of_the_loops(grid, window):
    query, key = tokens(grid)
    pairs = frame_pairs(4, span=3)
    flow = windowed(query, key, pairs, grid, window=window, temperature=1.5)
    for job in range(2):
        for p, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
            torch.testing.assert_close(
                flow[job, p], naive.windowed_flow(query, key, i, j, job, grid, (3, 4), window, 1.5)
            )


@pytest.mark.parametrize("grid", GRIDS)
def test_a_window_over_the_whole_grid_is_global(grid):
    query, key = tokens(grid)
    pairs = frame_pairs(4)
    everywhere, in_windows = global_motion_flow(query, key, pairs, grid), windowed(query, key, pairs, grid, window=99)
    torch.testing.assert_close(in_windows, everywhere)
    gradients = [torch.autograd.grad(f.pow(2).sum(), (query, key)) for f in (everywhere, in_windows)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_pairs_in_parts_change_nothing(monkeypatch):
    query, key = tokens((6, 8))
    pairs = frame_pairs(4)
    whole = windowed(query, key, pairs, (6, 8), window=3)
    monkeypatch.setattr(flow_module, "MAX_LOGITS", 1)
    parts = windowed(query, key, pairs, (6, 8), window=3)
    assert torch.equal(whole, parts)
    gradients = [torch.autograd.grad(f.pow(2).sum(), (query, key)) for f in (whole, parts)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_jobs_do_not_influence_each_other():
    query, key = tokens((6, 8), jobs=3)
    pairs = frame_pairs(4)
    together = windowed(query, key, pairs, (6, 8), window=3)
    alone = windowed(query[1:2], key[1:2], pairs, (6, 8), window=3)
    torch.testing.assert_close(together[1:2], alone)
    (gradient,) = torch.autograd.grad(together[0].sum(), key)
    assert gradient[1:].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_a_tenth_of_a_cell(dtype):
    query, key = tokens((6, 8))
    pairs = frame_pairs(4)
    for flow in (global_motion_flow, lambda *args: windowed(*args, window=5)):
        exact = flow(query, key, pairs, (6, 8))
        rounded = flow(query.to(dtype), key.to(dtype), pairs, (6, 8))
        assert rounded.dtype == torch.float32
        assert (exact - rounded).abs().mean() < 0.1
    half = query.to(dtype), key.to(dtype)
    everywhere, in_windows = global_motion_flow(*half, pairs, (6, 8)), windowed(*half, pairs, (6, 8), window=99)
    torch.testing.assert_close(in_windows, everywhere)


def test_flow_of_a_shifted_frame_is_the_shift():
    """Keys that are the queries moved one cell to the right, told apart by one-hot channels."""
    grid = (4, 6)
    one_hot = 40 * torch.eye(24).view(4, 6, 24)
    query = torch.stack([one_hot, one_hot]).view(1, 2, 24, 1, 24)
    key = torch.stack([one_hot, one_hot.roll(1, 1)]).view(1, 2, 24, 1, 24)
    flow = global_motion_flow(query, key, frame_pairs(2), grid).view(4, 6, 2)
    torch.testing.assert_close(flow[:, :5], torch.tensor([0.0, 1.0]).expand(4, 5, 2), atol=1e-3, rtol=0)


def test_gradients_are_right():
    query, key = (x.detach().double().requires_grad_() for x in tokens((3, 4), jobs=1, frames=3, heads=1, dim=3))
    pairs = frame_pairs(3)
    centres = window_centres(query, key, pairs, (3, 4))

    def total(q, k):
        flow = windowed_motion_flow(q, k, pairs, (3, 4), centres, window=3)
        return flow.pow(2).sum() + window_distances(k, pairs, (3, 4), centres, window=3).sum()

    assert torch.autograd.gradcheck(total, (query, key), eps=1e-3, atol=5e-2, rtol=5e-2, nondet_tol=1e-3)


@pytest.mark.parametrize("grid", GRIDS)
def test_window_loss_is_that_of_the_loops(grid):
    query, key = tokens(grid)
    pairs = frame_pairs(4, span=4)
    centres = window_centres(query, key, pairs, grid)
    loss = window_distances(key, pairs, grid, centres, window=3).sum((1, 2))
    for job in range(2):
        torch.testing.assert_close(loss[job], naive.window_loss(query, key, job, grid, (3, 4), 3, 4, 1.0))


def test_window_loss_needs_two_later_frames():
    query, key = tokens((3, 4))
    pairs = frame_pairs(4, span=2)
    with pytest.raises(ValueError, match="span of 3"):
        window_distances(key, pairs, (3, 4), window_centres(query, key, pairs, (3, 4)))


def test_motion_flow_loss_sums_tokens_and_averages_weighted_pairs():
    flow, reference = torch.randn(2, 3, 5, 2), torch.randn(2, 3, 5, 2)
    weight = torch.tensor([1.0, 0.5, 0.25])
    expected = [sum(weight[p] * ((flow[b, p] - reference[b, p]) ** 2).sum() for p in range(3)) / 3 for b in range(2)]
    torch.testing.assert_close(squared_flow_difference(flow, reference, weight).sum((1, 2)), torch.stack(expected))


def test_pairs_and_weights_of_the_paper():
    pairs = frame_pairs(21)
    assert len(pairs.first) == 20 + 19 + 18
    distance = pairs.second - pairs.first
    for n, weight in ((1, 0.9333), (2, 0.8667), (3, 0.8)):
        torch.testing.assert_close(pairs.weight[distance == n].unique(), torch.tensor([weight]), atol=1e-4, rtol=0)
    assert len(frame_pairs(5, None).first) == 10
    assert frame_pairs(5, 4, include_same=True).weight[0] == 1


@pytest.mark.parametrize(("num_frames", "span"), [(1, 4), (5, 1), (5, 0), (5, -2)])
def test_pairs_that_cannot_be_are_refused(num_frames, span):
    with pytest.raises(ValueError, match=r"span|frame"):
        frame_pairs(num_frames, span)
