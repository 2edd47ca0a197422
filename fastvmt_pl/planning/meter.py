"""Count the memory and the floating-point operations of tensors, real or fake."""

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATEN = torch.ops.aten
FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[ATEN._scaled_dot_product_flash_attention],
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        ATEN._scaled_dot_product_flash_attention_backward
    ],
}
"""Formulas of PyTorch's own counter, with the CPU's attention kernel, which it lacks."""


def stored_tensors(tensor: Tensor) -> list[Tensor]:
    """Return the tensors that hold a tensor's numbers: itself, or for a quantised one its integers and scales."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [each for name in names for each in stored_tensors(getattr(tensor, name))]


def convolution_buffers(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    *,
    result: Tensor,
) -> int:
    """Return the bytes that a convolution needs on a CPU besides its inputs and its result.

    oneDNN copies image and weight into its own layouts, and the result back. For small images, PyTorch uses a kernel
    that writes a column for each output.
    """
    sizes = None if bias is None else list(bias.shape)
    backend = torch._C._select_conv_backend(
        image, weight, bias, stride, padding, dilation, transposed, output_padding, groups, sizes
    )
    layout = torch._C._conv_determine_backend_memory_format(image, weight, backend)
    copied = sum(each.nbytes for each in (image, weight) if not each.is_contiguous(memory_format=layout))
    if backend.name == "Slow3d":
        return copied + len(image) * math.prod(weight.shape[1:]) * math.prod(result.shape[2:]) * result.element_size()
    plain = layout == torch.contiguous_format
    return copied + max(weight.nbytes + plain * image.nbytes, plain * result.nbytes)


@dataclass(eq=False)
class Reading:
    """The counts of a block of code.

    Attributes:
        before: Bytes of tensors at its beginning.
        peak: Largest number of bytes of tensors.
        flops: Floating-point operations of products, convolutions and attention.
    """

    before: int
    peak: int
    flops: int = 0

    @property
    def growth(self) -> int:
        """Largest growth of memory in bytes."""
        return self.peak - self.before


class TensorMeter(TorchDispatchMode):
    """Tracks every storage from the operation that creates it until the last tensor that uses it is freed.

    It counts forward and backward passes, including checkpointing, on real tensors and fake ones, which have a shape,
    a type and a device but no data. It does not count the buffers inside kernels. Fake tensors have no values. Where
    code reads one, it gets ``True``: our code only asks whether numbers are finite.

    Example:
        .. code-block:: python

            with TensorMeter() as meter, meter.reading() as reading:
                loss.backward()
            reading.peak, reading.flops
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self._readings: list[Reading] = []
        self._known: set[int] = set()

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Count within the block."""
        reading = Reading(self.num_bytes, self.num_bytes)
        self._readings.append(reading)
        try:
            yield reading
        finally:
            self._readings.remove(reading)

    def count(self, again: Reading) -> None:
        """Count code that ran before, by its reading then; what it leaves behind counts by itself."""
        for reading in self._readings:
            reading.peak = max(reading.peak, self.num_bytes + again.growth)
            reading.flops += again.flops

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        if func is ATEN._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return True
        result = func(*args, **(kwargs or {}))
        tensors = [result] if isinstance(result, Tensor) else tree_leaves(result) if isinstance(result, tuple) else []
        for tensor in tensors:
            for each in stored_tensors(tensor) if isinstance(tensor, Tensor) else []:
                if not each.is_meta:  # which takes no memory; fake tensors do
                    self._follow(each.untyped_storage())
        flops = FLOPS.get(func.overloadpacket)
        buffer = convolution_buffers(*args, result=result) if func is ATEN.convolution.default else 0
        for reading in self._readings:
            reading.peak = max(reading.peak, self.num_bytes + buffer)
            reading.flops += 0 if flops is None else flops(*args, **(kwargs or {}), out_val=result)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.num_bytes += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.num_bytes -= size
