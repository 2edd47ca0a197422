"""Choose the kernel of a transformer's self-attention, by diffusers' names, after a trial of it."""

import torch
from diffusers import attention_backend
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from fastvmt_pl.errors import UserError

UNUSABLE = {"hub": "runs code that is fetched from a hub", "sage": "gives no gradients"}
"""Parts of names of backends that are refused, with what they do."""
KNOWN = tuple(backend.value for backend in AttentionBackendName if not any(part in backend.value for part in UNUSABLE))


def check_backend(name: str) -> None:
    """Refuse a backend of attention that does not go with motion transfer or is not installed.

    Raises:
        ValueError: If it is unknown, runs remote code, gives no gradients, or lacks a package.
    """
    for part, reason in UNUSABLE.items():
        if part in name:
            raise UserError(f"attention_backend {name!r} {reason}; use one of {', '.join(KNOWN)}, or null")
    if name not in KNOWN:
        raise UserError(f"attention_backend is {name!r}; use one of {', '.join(KNOWN)}, or null")
    try:
        with attention_backend(name):
            pass
    except RuntimeError as error:
        raise UserError(f"attention_backend {name!r} cannot be used: {error}") from error


def try_backend(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Compute a little attention and its gradients, before minutes go into what needs them.

    Args:
        name: A backend that is installed.
        device: Where it is to run.
        dtype: Precision of queries, keys and values.
        head_dim: Their width.

    Raises:
        ValueError: If it cannot, saying why.
    """
    inputs = [torch.ones(1, 16, 2, head_dim, device=device, dtype=dtype, requires_grad=True) for _ in "qkv"]
    try:
        with torch.enable_grad(), attention_backend(name):
            torch.autograd.grad(dispatch_attention_fn(*inputs).sum(), inputs)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"attention_backend {name!r} does not work forward and backward on {device} in {dtype} ({error}); use "
            "another, or null"
        ) from error
