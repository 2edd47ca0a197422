"""The cost of jobs with the same settings, and whether they fit."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.planning import Change, Plan, Rates, advise, gib, parts_table, steps_table
from fastvmt_pl.runs.transfer_options import TransferOptions

RESERVE = 0.1
"""Share of a device's memory for its driver, its kernels and gaps between tensors."""


@dataclass(frozen=True)
class Share:
    """Jobs with the same settings.

    Attributes:
        options: Their options.
        settings: Other settings of the config that they override, by dotted names.
        prompts: Their prompts, by clip.
    """

    options: TransferOptions
    settings: dict[str, Any]
    prompts: dict[Path, list[str]]

    def __str__(self) -> str:
        settings = {**self.options, **self.settings}
        described = ", ".join(f"{name} {value}" for name, value in settings.items()) or "as the config says"
        return f"{sum(map(len, self.prompts.values()))} jobs on {len(self.prompts)} clips, {described}"


@dataclass(frozen=True)
class PlannedShare:
    """The cost of jobs with the same settings.

    Attributes:
        share: The jobs.
        module: The module, whose weights are not read.
        plan: Their cost.
        rates: This device's speed; ``None`` if it was not measured.
        memory: Available memory in bytes.
        auto_dtype: The value of ``dtype: auto``; ``None`` if the settings name a dtype.
    """

    share: Share
    module: MotionTransfer
    plan: Plan
    rates: Rates | None
    memory: int
    auto_dtype: str | None

    @property
    def room(self) -> int:
        """Memory for tensors in bytes."""
        return round((1 - RESERVE) * self.memory)

    @property
    def fits(self) -> bool:
        """Whether the jobs fit."""
        return self.plan.peak <= self.room

    @cached_property
    def changes(self) -> list[Change]:
        """Changes that make the jobs fit, applied one after the other; all of them may not be enough."""
        return [] if self.fits else list(advise(self.module, self.plan.workload, self.plan, self.room))

    @property
    def problem(self) -> str | None:
        """The error message if the jobs do not fit, else ``None``."""
        if self.fits:
            return None
        enough = bool(self.changes) and self.changes[-1].plan.peak <= self.room
        ending = "the plan says what to change" if enough else "nor with these changes; use a device with more memory"
        return f"the run takes {gib(self.plan.peak)} GiB and does not fit; {ending}"

    def __str__(self) -> str:
        frames, rows, columns = self.plan.tokens
        lines = [] if self.auto_dtype is None else [f"dtype auto is planned as {self.auto_dtype}", ""]
        lines += [f"{frames} latent frames of {rows} x {columns} tokens, {frames * rows * columns} tokens a job", ""]
        lines += [parts_table(self.plan), "", steps_table(self.plan, self.rates), ""]
        have = f"{gib(self.room)} of {gib(self.memory)} GiB (a tenth is left to driver and kernels)"
        peak = gib(self.plan.peak)
        if self.fits:
            return "\n".join([*lines, f"it fits: {peak} GiB in {have}"])
        lines.append(f"it does not fit: {peak} GiB in {have}; the largest step: {self.plan.largest.name}")
        for change in self.changes:
            also = ", which fits" if change.plan.peak <= self.room else ""
            lines.append(f"set {change.setting}: {gib(change.plan.peak)} GiB{also}")
        return "\n".join(lines)
