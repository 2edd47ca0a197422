"""Keep a backbone in memory from one run to the next."""

from collections.abc import Sequence
from typing import Any

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.preemption import StopRequest


class KeptBackbone:
    """The backbone of the last run, which the next one takes over if it is to have the same.

    Args:
        prompts: Prompts of all runs, so that the text encoder is read once.
        request: Whether this process was asked to stop.
    """

    def __init__(self, prompts: Sequence[str], request: StopRequest) -> None:
        self.prompts, self.request = prompts, request
        self.backbone: Backbone | None = None
        self.config: Any = None

    def lend(self, cli: TransferCLI) -> None:
        """Give a run the backbone that is kept, if it is the run's, or keep the run's from now on.

        Raises:
            Preempted: If this process was asked to stop.
        """
        if self.backbone is None or cli.config["model"]["backbone"] != self.config:
            self.backbone, self.config = cli.model.backbone, cli.config["model"]["backbone"]
            self.backbone.to(cli.trainer.strategy.root_device)
            for prompt in ("", *self.prompts, cli.model.negative_prompt):
                self.request.check()
                self.backbone.embed_prompts([prompt])
        cli.model.backbone = self.backbone
