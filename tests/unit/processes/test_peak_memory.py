import gc

import torch

from fastvmt_pl.processes.peak_memory import PeakMemory


def test_the_peak_counts_tensors_that_live_at_the_same_time():
    kept = torch.randn(1000)
    with PeakMemory("cpu") as peak:
        for _ in range(3):
            large = torch.empty(250_000)  # a million bytes, one at a time
            del large
        other = kept * 2
    assert peak.num_bytes == 1_000_000
    assert len(other) == 1000


def test_activations_for_the_backward_pass_count():
    weight = torch.randn(500, 500, requires_grad=True)
    with PeakMemory("cpu") as peak:
        (weight.exp().exp()).sum().backward()
    assert peak.num_bytes >= 3 * 1_000_000  # both results are kept, and there is a gradient


def test_garbage_of_earlier_work_does_not_lower_the_peak():
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
