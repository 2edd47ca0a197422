"""Peak memory of tensors, on a GPU or a CPU."""

import gc
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


class PeakMemory:
    """Measures the largest growth of the tensors' memory while a block runs, forward and backward.

    CUDA counts this itself. On the CPU it is the largest running sum of the allocations and releases that PyTorch
    reports to its profiler. That includes the backward pass and the buffers inside kernels. Resident memory would also
    count memory that the C library keeps after tensors are freed.

    Args:
        device: The device that the block runs on.

    Attributes:
        num_bytes: The growth in bytes, known after the block.

    Example:
        .. code-block:: python

            with PeakMemory("cpu") as peak:
                loss.backward()
            peak.num_bytes
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.num_bytes = 0

    def __enter__(self) -> "PeakMemory":
        gc.collect()  # garbage that is freed inside the block would count as negative growth
        if self.device.type == "cuda":
            self.before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profiler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.num_bytes = torch.cuda.max_memory_allocated(self.device) - self.before
            return
        self.profiler.__exit__(None, None, None)
        results: Any = self.profiler.profiler.kineto_results  # type: ignore[union-attr]  # there once it has run
        events = [event for event in results.events() if event.name() == "[memory]"]
        total = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            total += event.nbytes()
            self.num_bytes = max(self.num_bytes, total)
