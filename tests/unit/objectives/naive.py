"""The maths of the papers written as loops, to check the fast versions against."""

import math
from itertools import pairwise

import torch


def logits(query, key, job, i, j, temperature):
    """Mean over heads of the products, [tokens, tokens]."""
    heads, dim = query.shape[-2:]
    total = sum(query[job, i, :, h] @ key[job, j, :, h].T for h in range(heads))
    return total / heads / math.sqrt(dim) * temperature


def position(token, grid):
    return torch.tensor([token // grid[1], token % grid[1]], dtype=torch.float32)


def global_flow(query, key, i, j, job, grid, temperature):
    attention = logits(query, key, job, i, j, temperature).softmax(-1)
    flow = []
    for s in range(len(attention)):
        expected = sum(attention[s, t] * position(t, grid) for t in range(len(attention)))
        flow.append(expected - position(s, grid))
    return torch.stack(flow)


def tiles(grid, tile):
    for top in range(0, grid[0], tile[0]):
        for left in range(0, grid[1], tile[1]):
            yield range(top, min(top + tile[0], grid[0])), range(left, min(left + tile[1], grid[1]))


def window(centre, size, window):
    """Return the rows or columns of a window, shifted inward at the border."""
    length = min(window, size)
    start = min(max(centre - window // 2, 0), size - length)
    return range(start, start + length)


def centre_of_tile(query, key, i, j, job, grid, rows, columns, temperature):
    middle = rows[(len(rows) - 1) // 2] * grid[1] + columns[(len(columns) - 1) // 2]
    attention = logits(query, key, job, i, j, temperature)[middle].softmax(-1)
    expected = sum(attention[t] * position(t, grid) for t in range(len(attention)))
    return [int(x) for x in expected.round()]


def windowed_flow(query, key, i, j, job, grid, tile, size, temperature):
    all_logits = logits(query, key, job, i, j, temperature)
    flow = torch.zeros(grid[0] * grid[1], 2)
    for rows, columns in tiles(grid, tile):
        row, column = centre_of_tile(query, key, i, j, job, grid, rows, columns, temperature)
        inside = [r * grid[1] + c for r in window(row, grid[0], size) for c in window(column, grid[1], size)]
        places = torch.stack([position(t, grid) for t in inside])
        for r in rows:
            for c in columns:
                s = r * grid[1] + c
                flow[s] = all_logits[s, inside].softmax(-1) @ places - position(s, grid)
    return flow


def window_loss(query, key, job, grid, tile, size, span, temperature):
    """Mean over tiles, frames i and consecutive j of the distance between mean keys."""
    num_frames, distances = query.shape[1], []
    keys = key[job].flatten(-2)
    for rows, columns in tiles(grid, tile):
        for i in range(num_frames):
            means = []
            for j in range(i + 1, min(num_frames, i + span)):
                row, column = centre_of_tile(query, key, i, j, job, grid, rows, columns, temperature)
                inside = [r * grid[1] + c for r in window(row, grid[0], size) for c in window(column, grid[1], size)]
                means.append(keys[j, inside].mean(0))
            distances += [(after - before).norm() for before, after in pairwise(means)]
    return torch.stack(distances).mean()
