"""Keep a backbone in memory from one run to the next."""

import gc
from collections.abc import Sequence
from itertools import islice
from typing import Any

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.lightning_cli import TransferCLI

NUM_AHEAD = 64
"""Prompts of later runs that are embedded at a time, while the text encoder is in memory."""


class KeptBackbone:
    """The backbone of the last run, which the next run takes over if it has the same.

    Args:
        request: Whether this process was asked to stop.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request
        self.backbone: Backbone | None = None
        self.config: Any = None
        self._embedded: set[str] = set()

    def lend(self, cli: TransferCLI, prompts: Sequence[str]) -> None:
        """Give a run the kept backbone if it is the run's; otherwise keep the run's from now on.

        Args:
            cli: The run.
            prompts: Prompts of all runs with this backbone in their order; the next ones are embedded too.

        Raises:
            Preempted: If this process was asked to stop.
        """
        config = cli.config["model"]["backbone"]
        if self.backbone is None or config != self.config:
            self.backbone = None
            self._embedded.clear()
            gc.collect()  # before another one is read: the last run's module and trainer refer to each other, and to it
            self.backbone, self.config = cli.model.backbone, config
            self.backbone.to(cli.trainer.strategy.root_device)
        cli.model.backbone = self.backbone
        needed = ["", *cli.datamodule.prompts, cli.model.negative_prompt]
        if not self._embedded.issuperset(needed):
            begin = prompts.index(needed[1]) if needed[1] in prompts else 0
            ahead = (prompt for prompt in dict.fromkeys(prompts[begin:]) if prompt not in self._embedded)
            for prompt in dict.fromkeys([*needed, *islice(ahead, NUM_AHEAD)]):
                self.request.check()
                self.backbone.embed_prompts([prompt])
                self._embedded.add(prompt)
