"""Keep a backbone in memory from one run to the next."""

import gc
from collections.abc import Sequence
from itertools import islice
from typing import Any

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.preemption import StopRequest

NUM_AHEAD = 64
"""Prompts of later runs that are embedded at a time, while the text encoder is in memory."""


class KeptBackbone:
    """The backbone of the last run, which the next one takes over if it is to have the same.

    Args:
        prompts: Prompts of all runs in their order.
        request: Whether this process was asked to stop.
    """

    def __init__(self, prompts: Sequence[str], request: StopRequest) -> None:
        self.prompts, self.request = prompts, request
        self.backbone: Backbone | None = None
        self.config: Any = None
        self._embedded: set[str] = set()

    def lend(self, cli: TransferCLI) -> None:
        """Give a run the backbone that is kept, if it is the run's, or keep the run's from now on.

        Raises:
            Preempted: If this process was asked to stop.
        """
        config = cli.config["model"]["backbone"]
        if self.backbone is None or config != self.config:
            self.release()
            self.backbone, self.config = cli.model.backbone, config
            self.backbone.to(cli.trainer.strategy.root_device)
        cli.model.backbone = self.backbone
        needed = ["", *cli.datamodule.prompts, cli.model.negative_prompt]
        if not self._embedded.issuperset(needed):
            self._embed([*needed, *self._ahead(cli.datamodule.prompts[0])])

    def release(self) -> None:
        """Give back the memory of the backbone, before another one is read."""
        if self.backbone is None:
            return
        self.backbone = None
        self._embedded.clear()
        gc.collect()  # the last run's module and trainer refer to each other, and to the backbone

    def _ahead(self, prompt: str) -> list[str]:
        """Return the next prompts after a run's first one that are not embedded yet."""
        begin = self.prompts.index(prompt) if prompt in self.prompts else 0
        open_ones = (other for other in self.prompts[begin:] if other not in self._embedded)
        return list(islice(dict.fromkeys(open_ones), NUM_AHEAD))

    def _embed(self, prompts: Sequence[str]) -> None:
        assert self.backbone is not None
        for prompt in dict.fromkeys(prompts):
            self.request.check()
            self.backbone.embed_prompts([prompt])
            self._embedded.add(prompt)
