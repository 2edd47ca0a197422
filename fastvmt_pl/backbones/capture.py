"""Bring what a diffusers transformer computes on its way, and end its pass as soon as all that was asked for is there.

The transformer's own code runs, so this knows no model. Self-attention is stopped, or watched, where it calls the
attention kernel with its queries and keys; hidden states are what the blocks return.

Axes: ``jobs``, ``all_tokens`` (those of the text included), ``heads``, ``dim`` (of a head), ``width``.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from diffusers.models.attention_dispatch import AttentionBackendName
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from fastvmt_pl.backbones.request import Request

AllTokens = Float[Tensor, "jobs all_tokens heads dim"]
ROTARY = ("rotary_emb", "image_rotary_emb", "query_rotary_emb", "key_rotary_emb")
"""What diffusers' attention calls the argument with its rotary embedding."""


@dataclass
class Seen:
    """What came by in a pass, by block: queries and keys as the kernel gets them, and what the blocks returned."""

    query: dict[int, AllTokens] = field(default_factory=dict)
    key: dict[int, AllTokens] = field(default_factory=dict)
    unrotated_query: dict[int, AllTokens] = field(default_factory=dict)
    unrotated_key: dict[int, AllTokens] = field(default_factory=dict)
    hidden: dict[int, Float[Tensor, "jobs tokens width"]] = field(default_factory=dict)

    def misses(self, request: Request) -> set[int]:
        """Return the blocks of which something that was asked for is not there yet."""
        return {
            *(request.query_key - self.query.keys()),
            *(request.unrotated - self.unrotated_query.keys()),
            *(request.hidden - self.hidden.keys()),
        }


class _AllSeen(Exception):
    """Ends a pass that has brought all that was asked for."""


class _KernelReached(Exception):
    """Ends an attention at its kernel."""


class _AtKernel(TorchFunctionMode):
    """Takes queries and keys off the first call of the attention kernel, and ends it there if it should."""

    def __init__(self, stop: bool) -> None:
        super().__init__()
        self.stop = stop
        self.found: tuple[AllTokens, AllTokens] | None = None

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and self.found is None:
            named = dict(zip(("query", "key"), args, strict=False)) | kwargs
            self.found = named["query"].transpose(1, 2), named["key"].transpose(1, 2)
            if self.stop:
                raise _KernelReached
        return function(*args, **kwargs)


def capturing(
    transformer: nn.Module,
    blocks: Mapping[int, nn.Module],
    attentions: Mapping[int, nn.Module],
    request: Request,
    behind: nn.Module | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Seen, Any]:
    """Run a transformer as far as a request needs, and leave it as it was, whatever happens.

    Blocks that are asked for are neither checkpointed nor run as compiled code in this pass: a pass that ends in a
    checkpointed block could not be repeated, and one that ends in a compiled block would be compiled for it.

    Args:
        transformer: The transformer.
        blocks: The blocks that are asked for, by number.
        attentions: Their self-attention.
        request: What to bring.
        behind: The block behind the last of them, from which on there is no graph if the velocity is only wanted for
            denoising.
        *args: What the transformer is called with.
        **kwargs: What the transformer is called with, by name.

    Returns:
        What was seen, and the transformer's output, which is ``None`` if no velocity is wanted.

    Raises:
        RuntimeError: If the pass ends without something that was asked for.
    """
    seen = Seen()

    def end_if_all_seen() -> None:
        if not request.to_the_end and not seen.misses(request):
            raise _AllSeen

    output = None
    with ExitStack() as stack:
        plain = [*blocks.values()]
        if behind is not None and request.denoising and not request.velocity:
            plain.append(behind)
            stack.callback(behind.register_forward_pre_hook(_detached, with_kwargs=True).remove)
        stack.enter_context(_neither_checkpointed_nor_compiled(transformer, plain))
        for block in request.query_key | request.unrotated:
            stack.enter_context(_watched(attentions[block], block, request, seen, end_if_all_seen))
        for block in request.hidden:
            hook = blocks[block].register_forward_hook(_keeps_hidden(block, seen, end_if_all_seen))
            stack.callback(hook.remove)
        with suppress(_AllSeen):
            output = transformer(*args, **kwargs)
    if seen.misses(request):
        raise RuntimeError(
            f"the transformer's pass never reached what was asked for of block {min(seen.misses(request))}; leave the "
            "attention and the forward method of that block as they are"
        )
    return seen, output


def _detached(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, (args, kwargs))


def _keeps_hidden(block: int, seen: Seen, after: Callable[[], None]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.hidden[block] = output[0] if isinstance(output, tuple) else output  # the video's tokens come first
        after()

    return keep


@contextmanager
def _watched(
    attention: nn.Module, block: int, request: Request, seen: Seen, after: Callable[[], None]
) -> Iterator[None]:
    """Let an attention keep its queries and keys, and run no further than needed."""
    forward, signature = attention.forward, inspect.signature(attention.forward)

    def until_kernel(*args: Any, **kwargs: Any) -> tuple[AllTokens, AllTokens] | None:
        kernel = _AtKernel(stop=True)
        with kernel, _native(attention), suppress(_KernelReached):
            forward(*args, **kwargs)
        found: tuple[AllTokens, AllTokens] | None = kernel.found
        return found

    def watched(*args: Any, **kwargs: Any) -> Any:
        if block in request.unrotated:
            bound = _without_rotary(signature.bind(*args, **kwargs))
            if found := until_kernel(*bound.args, **bound.kwargs):
                seen.unrotated_query[block], seen.unrotated_key[block] = found
        if block not in request.query_key:
            after()
            return forward(*args, **kwargs)
        if not request.to_the_end and seen.misses(request) == {block} and block not in request.hidden:
            if found := until_kernel(*args, **kwargs):
                seen.query[block], seen.key[block] = found
            after()
        with _AtKernel(stop=False) as kernel, _native(attention):
            output = forward(*args, **kwargs)
        if kernel.found:
            seen.query[block], seen.key[block] = kernel.found
        return output

    with _set(attention, "forward", watched):
        yield


def _without_rotary(bound: inspect.BoundArguments) -> inspect.BoundArguments:
    for name, value in bound.arguments.items():
        if name in ROTARY:
            bound.arguments[name] = None
        elif bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: None if key in ROTARY else given for key, given in value.items()}
    return bound


@contextmanager
def _native(attention: nn.Module) -> Iterator[None]:
    """Have PyTorch's own kernel called, which is the one that is watched."""
    processor = getattr(attention, "processor", None)
    if not hasattr(processor, "_attention_backend"):  # it knows no other
        yield
        return
    with _set(processor, "_attention_backend", AttentionBackendName.NATIVE):
        yield


@contextmanager
def _neither_checkpointed_nor_compiled(transformer: nn.Module, blocks: list[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(_set(block, "_compiled_call_impl", None))
        if getattr(transformer, "gradient_checkpointing", False):
            recompute: Any = transformer._gradient_checkpointing_func

            def run(module: nn.Module, *args: Any) -> Any:
                return module(*args) if any(module is block for block in blocks) else recompute(module, *args)

            stack.enter_context(_set(transformer, "_gradient_checkpointing_func", run))
        yield


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an object's own attribute for a while; one that it only inherits is inherited again afterwards."""
    had, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
