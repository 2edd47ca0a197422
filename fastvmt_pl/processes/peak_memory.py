"""How much memory tensors take, on a GPU and on a CPU."""

import gc
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


class PeakMemory:
    """Measures by how much the memory of tensors grows at most while something runs, forward and backward.

    CUDA counts this itself. On the CPU it is the highest running sum of what PyTorch's allocator reports to the
    profiler, which sees the backward pass and the buffers inside kernels; resident memory would also count what
    the C library keeps after tensors are gone.

    Args:
        device: Where it runs.

    Attributes:
        num_bytes: The peak, once it has run.

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
        gc.collect()  # what was left lying about must not be taken off when it goes
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
