import gc

import torch

from fastvmt_pl.processes.peak_memory import PeakMemory


def test_the_peak_is_what_lives_at_once():
    kept = torch.randn(1000)
    with PeakMemory("cpu") as peak:
        for _ in range(3):
            large = torch.empty(250_000)  # a million bytes, one at a time
            del large
        other = kept * 2
    assert peak.num_bytes == 1_000_000
    assert len(other) == 1000


def test_what_backward_keeps_counts():
    weight = torch.randn(500, 500, requires_grad=True)
    with PeakMemory("cpu") as peak:
        (weight.exp().exp()).sum().backward()
    assert peak.num_bytes >= 3 * 1_000_000  # both results are kept, and there is a gradient


def test_what_earlier_work_left_lying_about_is_not_taken_off():
    gc.disable()
    try:
        with PeakMemory("cpu"):
            ring = [torch.zeros(2**22)]
            ring.append(ring)
        del ring
        with PeakMemory("cpu") as peak:
            gc.collect()
            torch.zeros(2**20)
    finally:
        gc.enable()
    assert peak.num_bytes == 4 * 2**20
