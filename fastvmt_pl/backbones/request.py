"""What a forward pass is to bring, and what it brought.

Axes: ``jobs``, ``frames`` and ``tokens`` (of a frame) as the transformer sees them, ``heads``, ``dim`` (of a head).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "jobs channels latent_frames latent_height latent_width"]
"""The autoencoder's latents, normalised as the transformer expects them, in fp32."""
FrameTokens = Float[Tensor, "jobs frames tokens heads dim"]
"""Queries or keys of a block."""


@dataclass(frozen=True)
class Request:
    """What a pass is to bring. Requests join with ``|``; the pass ends after the last thing asked for.

    Args:
        query_key: Blocks whose self-attention's queries and keys are wanted, after the rotary embedding.
        unrotated: The same, before the rotary embedding.
        hidden: Blocks whose output is wanted, of the video's tokens.
        velocity: Also predict the velocity, for which the pass goes on to its end.
        denoising: Also predict the velocity, but only to take a denoising step with it: no gradient flows from it, so
            the graph ends behind the last block that is asked for.
        gradient: Gradients are to flow from what it brings to the latents.
    """

    query_key: frozenset[int] = frozenset()
    unrotated: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()
    velocity: bool = False
    denoising: bool = False
    gradient: bool = True

    def __or__(self, other: "Request") -> "Request":
        """Return a request for what either asks for."""
        return Request(
            self.query_key | other.query_key,
            self.unrotated | other.unrotated,
            self.hidden | other.hidden,
            self.velocity or other.velocity,
            self.denoising or other.denoising,
            self.gradient or other.gradient,
        )

    @property
    def to_the_end(self) -> bool:
        """Whether the pass goes on to the transformer's output."""
        return self.velocity or self.denoising

    @property
    def blocks(self) -> frozenset[int]:
        """All blocks that it asks for something of."""
        return self.query_key | self.unrotated | self.hidden


@dataclass(frozen=True)
class Capture:
    """What a pass brought.

    Attributes:
        latents: As given, in the graph.
        sigma: Noise level of each job.
        grid: Rows and columns of tokens in a frame.
        query: Queries of each block, after the rotary embedding.
        key: Keys of each block, after the rotary embedding.
        unrotated_query: Queries of each block, before the rotary embedding.
        unrotated_key: Keys of each block, before the rotary embedding.
        hidden: Output of each block.
        velocity: The predicted velocity (noise less clean latents), in fp32.
    """

    latents: Latents
    sigma: Float[Tensor, "jobs"]
    grid: tuple[int, int]
    query: Mapping[int, FrameTokens] = field(default_factory=dict)
    key: Mapping[int, FrameTokens] = field(default_factory=dict)
    unrotated_query: Mapping[int, FrameTokens] = field(default_factory=dict)
    unrotated_key: Mapping[int, FrameTokens] = field(default_factory=dict)
    hidden: Mapping[int, Float[Tensor, "jobs frames tokens width"]] = field(default_factory=dict)
    velocity: Latents | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Capture":
        """Return the capture with a change of each tensor that blocks brought."""

        def changed(brought: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {block: change(tensor) for block, tensor in brought.items()}

        return replace(
            self,
            query=changed(self.query),
            key=changed(self.key),
            unrotated_query=changed(self.unrotated_query),
            unrotated_key=changed(self.unrotated_key),
            hidden=changed(self.hidden),
        )

    @staticmethod
    def joined(parts: Sequence["Capture"], order: list[int], latents: Latents) -> "Capture":
        """Join what passes of some jobs each brought.

        Args:
            parts: The passes, which all brought the same things.
            order: Where each job is among those of all passes.
            latents: Those of all jobs, as given.
        """

        def rows(name: str) -> dict[int, Tensor]:
            brought = [getattr(each, name) for each in parts]
            return {block: torch.cat([each[block] for each in brought])[order] for block in brought[0]}

        velocities = [each.velocity for each in parts if each.velocity is not None]
        return Capture(
            latents,
            torch.cat([each.sigma for each in parts])[order],
            parts[0].grid,
            **{name: rows(name) for name in ("query", "key", "unrotated_query", "unrotated_key", "hidden")},
            velocity=torch.cat(velocities)[order] if velocities else None,
        )

    @property
    def clean(self) -> Latents:
        """The clean latents that the velocity predicts."""
        assert self.velocity is not None
        return self.latents - self.sigma.view(-1, 1, 1, 1, 1) * self.velocity
