"""The command line: which command, and how it ends."""

import argparse
import sys
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, NamedTuple, get_args, get_origin

import jsonargparse
from safetensors import SafetensorError
from torch.distributed import get_backend, is_initialized

from fastvmt_pl.cli.cache import cache
from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.evaluation.evaluating import evaluate
from fastvmt_pl.experiments.sweeping import sweep
from fastvmt_pl.joblists.transfer_list import transfer_jobs
from fastvmt_pl.planning.machine import doctor
from fastvmt_pl.planning.planning_run import plan
from fastvmt_pl.processes.ending import EndAtOnce
from fastvmt_pl.processes.stop_request import REQUEUE_CODE, Preempted
from fastvmt_pl.report.report_run import report
from fastvmt_pl.runs.distill_run import distill
from fastvmt_pl.runs.encode_run import encode
from fastvmt_pl.runs.export_run import export
from fastvmt_pl.runs.lightning_cli import FitCLI, TrainCLI
from fastvmt_pl.runs.sample_run import sample
from fastvmt_pl.runs.transfer_run import transfer


class HyphenParser(jsonargparse.ArgumentParser):
    """A parser whose options have hyphens, where parameters have underscores, and whose switches need no value."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument."""
        if options.get("type") is bool:
            options |= {"nargs": "?", "const": True}
        hyphenated = [name.replace("_", "-") if name.startswith("-") else name for name in names]
        action: argparse.Action = super().add_argument(*hyphenated, **options)
        return action


def run_function(function: Callable[..., Any], command: "Command", args: list[str]) -> None:
    """Run a function from the command line: its parameters are the options; a list that it needs takes many words."""
    parser = HyphenParser(
        prog=f"fastvmt {command.function.__name__}",
        description=f"{command.summary}\n\n{command.detail}",
        exit_on_error=False,
        print_config=None,
    )
    needed = {name: each for name, each in signature(function).parameters.items() if each.default is each.empty}
    lists = {name: get_args(each.annotation) for name, each in needed.items() if get_origin(each.annotation) is list}
    for name, (kind,) in lists.items():
        parser.add_argument(name, type=kind, nargs="+")
    positional = function is command.function  # a variant is told by an option
    parser.add_function_arguments(
        function, as_group=False, as_positional=positional, fail_untyped=True, skip=set(lists)
    )
    function(**parser.instantiate_classes(parser.parse_args(args)).as_dict())


class Command(NamedTuple):
    """A command: what it does in a line, what more there is to know, and the function or LightningCLI behind it.

    An option may stand for another function of the same name.
    """

    summary: str
    detail: str
    function: Callable[..., Any]
    variants: Mapping[str, Callable[..., Any]] = {}

    def chosen(self, args: list[str]) -> Callable[..., Any]:
        """Return the function that some arguments ask for."""
        found = (self.variants[option] for option in self.variants if option in {arg.split("=")[0] for arg in args})
        return next(found, self.function)


COMMANDS = {
    "transfer": Command(
        "Make a video that shows a prompt and moves as a clip moves.",
        """Writes a folder with the video (output.mp4), the same video without guidance (baseline.mp4), both beside the
clip (comparison.mp4), pictures of the motion, measures and all settings. A run that was stopped goes on where it was
when it is started again with the same settings. An option that is left out (null) is the config's. Example:
fastvmt transfer clip.mp4 "a red circle on a gray background" --steps 30 --output runs/circle
Many at once, on any number of devices: fastvmt transfer --jobs FILE; see fastvmt transfer --jobs FILE --help.
""",
        transfer,
        {"--jobs": transfer_jobs},
    ),
    "distill": Command(
        "Distil a clip's motion into a LoRA.",
        """Makes guided samples of many prompts that move as the clip moves, trains a LoRA on them, on the clip, or on
both, and writes it for diffusers and ComfyUI, verified, with a model card. Stopped, it goes on where it was when it is
started again with the same settings. An option that is left out (null) is the config's. Example:
fastvmt distill clip.mp4 "a red circle on a gray background" --output runs/motion
""",
        distill,
    ),
    "sample": Command(
        "Make a video of a prompt, with motions from LoRAs.",
        """Writes a folder with the video and all settings. Example:
fastvmt sample "a blue cross on a navy background" --lora runs/motion/lora
""",
        sample,
    ),
    "encode": Command(
        "Encode videos and captions of your own into a data folder for fastvmt train.",
        """Videos and captions that cannot be used are named, counted and left out. Example:
fastvmt encode videos.tar data --size 480x832
""",
        encode,
    ),
    "export": Command(
        "Write the LoRA of a checkpoint for diffusers and ComfyUI.",
        """Example:
fastvmt export runs/motion/checkpoints/last.ckpt runs/motion/config.yaml loras/motion
""",
        export,
    ),
    "evaluate": Command(
        "Score how well videos follow the motion of their references.",
        """Takes a reference and a video, or run folders and tables (CSV, TSV or JSONL with reference and output, and
if wanted baseline and prompt); prints a table and writes JSON. A reference may be a folder of numbered pictures, with
--fps. Pairs that cannot be read are named, and the exit code is 1. Videos are compared by the clock, from their
beginnings to the shorter's end, at the lower of their rates; the middle of the reference is cropped to the video's
shape. Examples:
fastvmt evaluate clip.mp4 output.mp4
fastvmt evaluate runs/a runs/b --output scores.json
""",
        evaluate,
    ),
    "sweep": Command(
        "Run the same jobs under many settings and compare them.",
        """Writes a folder a run, results.csv with a row for each job of each setting, and summary.md with means,
bootstrap intervals and paired differences. What is finished is not done again. Processes of --devices, or of any
launcher, share the runs. Example:
fastvmt sweep configs/experiment/reuse.yaml runs/reuse
""",
        sweep,
    ),
    "report": Command(
        "Write one web page about finished transfers.",
        """One file that needs no network: videos side by side in step, with tracks and flow over them, curves of loss
and gradients, and a table of scores, times, memory and the settings that differ. Example:
fastvmt report runs/a runs/b --output report.html
""",
        report,
    ),
    "plan": Command(
        "Say what a run will cost before any weights are read: memory, time, and what to change if it does not fit.",
        """Memory by part and by step, how often each step is taken, and an estimate of the time. It needs only the
model's configs. The exit code is 1 if the run does not fit. Example:
fastvmt plan --config configs/wan2.1_1.3b.yaml --num-jobs 8 --memory 24 --calibrated false
""",
        plan,
    ),
    "doctor": Command(
        "Look at everything that a run needs on this machine.",
        """Prints a line for each thing: ok, warning or failure, and how to mend it. The exit code is 1 if one fails.
""",
        doctor,
    ),
    "cache": Command(
        "List or clear the motion of clips that is kept for other prompts and seeds.",
        """Prints the size, the time of the last use and the clip of each entry, and the total. Example:
fastvmt cache --clear
""",
        cache,
    ),
    "fit": Command("Transfer as a LightningCLI: every setting of every class, from YAML and options.", "", FitCLI),
    "train": Command("Training of a LoRA on a data folder that is there, as a LightningCLI.", "", TrainCLI),
}


def main(args: list[str] | None = None) -> int:
    """Run a command; return 0, 2 for a mistake of the user's, 1 for a failure at run time, or 75 to be started again.

    Args:
        args: Command and options; ``None`` takes those of the process, which is to end with what is returned.

    Raises:
        Exception: A bug, for its traceback; with ``--debug`` any error.
    """
    if args is not None:
        return _result(args)
    ending, code = EndAtOnce(), 1
    try:
        code = _result(sys.argv[1:])
    finally:
        if is_initialized() and get_backend() == "gloo":
            ending.code = code
    return code


def _result(args: list[str]) -> int:
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:10} {command.summary}" for name, command in COMMANDS.items()]
        print("usage: fastvmt COMMAND ... [--debug]\n\nfastvmt COMMAND --help tells more.\n\n" + "\n".join(lines))
        return 0
    try:
        _run(*args)
    except Preempted as stopped:
        print(f"fastvmt: {stopped}", file=sys.stderr)
        return REQUEUE_CODE
    except (UserError, argparse.ArgumentError) as error:
        return _report(error, 2, debug)
    except SafetensorError as error:
        return _report(RuntimeError(f"a file of weights is damaged ({error}); fetch the model again"), 1, debug)
    except (RuntimeError, OSError) as error:
        return _report(error, 1, debug)
    return 0


def _run(name: str, *args: str) -> None:
    command = COMMANDS.get(name)
    if command is None:
        raise UserError(f"there is no command {name!r}; use {', '.join(COMMANDS)}")
    if isinstance(command.function, type):  # a LightningCLI, whose own sub-command is fit
        command.function(["fit", *args])
    else:
        run_function(command.chosen(list(args)), command, list(args))


def _report(error: Exception, code: int, debug: bool) -> int:
    """Print an error on one line, or raise it for its traceback."""
    if debug:
        raise error
    print(f"fastvmt: error: {one_line(str(error))}", file=sys.stderr)
    return code
