"""What a model is conditioned on: an opaque bundle of tensors with one row a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

GIVEN = "given_latents"
"""Name of the clean latents of the first latent frames, where a model is given these as they are."""


@dataclass(frozen=True, eq=False)
class Condition:
    """Everything but latents and noise level that a model's forward pass takes: text, masks, image latents.

    Only the model's family looks inside. All other code indexes, joins, moves and saves it, and keeps the latents that
    it gives as they are.

    Attributes:
        tensors: By name, each with one row a job.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Sequence[int] | slice) -> "Condition":
        """Return some rows; all of them in order are the condition itself, so that facts a family keeps stay known."""
        if isinstance(rows, slice):
            rows = range(len(self))[rows]
        if list(rows) == list(range(len(self))):
            return self
        return Condition({name: tensor[list(rows)] for name, tensor in self.tensors.items()})

    def expand(self, num_jobs: int) -> "Condition":
        """Return the only row, repeated without copies."""
        return Condition({name: tensor.expand(num_jobs, *tensor.shape[1:]) for name, tensor in self.tensors.items()})

    @property
    def given(self) -> Float[Tensor, "jobs channels given_frames latent_height latent_width"] | None:
        """Clean latents of the first latent frames, which no step changes; ``None`` if all frames are made."""
        return self.tensors.get(GIVEN)

    def fixed(
        self, latents: Float[Tensor, "jobs channels frames height width"]
    ) -> Float[Tensor, "jobs channels frames height width"]:
        """Return latents with the given ones in their place; no gradient flows to those that they replace."""
        if self.given is None:
            return latents
        return torch.cat([self.given.to(latents), latents[:, :, self.given.shape[2] :]], 2)

    def stilled(
        self, velocity: Float[Tensor, "jobs channels frames height width"]
    ) -> Float[Tensor, "jobs channels frames height width"]:
        """Return a velocity that is 0 where latents are given."""
        if self.given is None:
            return velocity
        free = velocity[:, :, self.given.shape[2] :]
        return torch.cat([torch.zeros_like(velocity[:, :, : self.given.shape[2]]), free], 2)

    def joined(self, other: "Condition") -> "Condition":
        """Return a condition with the tensors of both, which have the same rows."""
        return Condition({**self.tensors, **other.tensors})

    def to(self, device: torch.device | str) -> "Condition":
        """Return the condition on a device."""
        return Condition({name: tensor.to(device) for name, tensor in self.tensors.items()})

    def where(self, keep: Bool[Tensor, "jobs"], other: "Condition") -> "Condition":
        """Return the own rows where ``keep`` holds, and the other's elsewhere.

        Args:
            keep: Which rows to keep.
            other: A condition of as many rows, or of one row that stands for all.
        """
        return Condition(
            {
                name: torch.where(keep.to(mine.device).view(-1, *[1] * (mine.ndim - 1)), mine, other.tensors[name])
                for name, mine in self.tensors.items()
            }
        )

    def compact(self) -> dict[str, Tensor]:
        """Return the tensors of the only row without the zeros at the end of its first axis, to save them."""
        found = {}
        for name, tensor in self.tensors.items():
            (row,) = tensor
            used = row.flatten(1).any(1).nonzero() if row.ndim > 1 else row.new_zeros(0)
            found[name] = row[: int(used.max()) + 1] if len(used) else row
        return found

    def misfits(self, row: Mapping[str, Tensor]) -> list[str]:
        """Return why :meth:`stack` cannot fill up what :meth:`compact` returned to the shape of this one's rows."""
        if row.keys() != self.tensors.keys():
            return [f"its condition has {', '.join(row) or 'nothing'} instead of {', '.join(self.tensors)}"]
        reasons = []
        for name, wanted in self.tensors.items():
            found, shape = list(row[name].shape), list(wanted.shape[1:])
            if len(found) != len(shape) or found[1:] != shape[1:] or found[:1] > shape[:1]:
                reasons.append(f"its {name} has shape {found} instead of up to {shape}")
        return reasons

    @staticmethod
    def cat(conditions: Sequence["Condition"]) -> "Condition":
        """Join conditions row after row."""
        names = conditions[0].tensors
        return Condition({name: torch.cat([each.tensors[name] for each in conditions]) for name in names})

    @staticmethod
    def stack(rows: Sequence[Mapping[str, Tensor]], like: "Condition") -> "Condition":
        """Join what :meth:`compact` returned, filled up with zeros to the shape of another condition's rows."""

        def filled(tensor: Tensor, wanted: Tensor) -> Tensor:
            missing = wanted.shape[1] - len(tensor) if tensor.ndim > 1 else 0
            return pad(tensor, (*[0, 0] * (tensor.ndim - 1), 0, missing)) if missing else tensor

        return Condition(
            {name: torch.stack([filled(row[name], wanted) for row in rows]) for name, wanted in like.tensors.items()}
        )
