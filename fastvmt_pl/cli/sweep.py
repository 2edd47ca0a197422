"""``fastvmt sweep``."""

from fastvmt_pl.cli.words import Command
from fastvmt_pl.experiments.sweeping import sweep

DETAIL = """Writes a folder a run, results.csv with a row for each job of each setting, and summary.md with means,
bootstrap intervals and paired differences. What is finished is not done again. Processes of --devices, or of any
launcher, share the runs.

Example: fastvmt sweep configs/experiment/reuse.yaml runs/reuse"""


COMMAND = Command(DETAIL, sweep)
