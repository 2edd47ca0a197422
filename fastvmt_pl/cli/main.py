"""The command line: which command, and how it ends."""

import argparse
import sys
import warnings
from importlib import import_module

from fastvmt_pl.errors import UserError, one_line

COMMANDS = {
    "transfer": "Make a video that shows a prompt and moves as a clip moves.",
    "distill": "Distil a clip's motion into a LoRA.",
    "sample": "Make a video of a prompt, with motions from LoRAs.",
    "encode": "Encode videos and captions of your own into a data folder for fastvmt train.",
    "export": "Write the LoRA of a checkpoint for diffusers and ComfyUI.",
    "evaluate": "Score how well videos follow the motion of their references.",
    "sweep": "Run the same jobs under many settings and compare them.",
    "report": "Write one web page about finished transfers.",
    "plan": "Say what a run will cost before weights are read: memory, time, and what to change if it does not fit.",
    "doctor": "Check everything that a run needs on this machine.",
    "cache": "List or clear the motion of clips that is kept for other prompts and seeds.",
    "fit": "Transfer as a LightningCLI: every setting of every class, from YAML and options.",
    "train": "Training of a LoRA on a data folder that is there, as a LightningCLI.",
}
"""What each command does; the command itself is in the file of its name."""


def main(args: list[str] | None = None) -> int:
    """Run a command; return 0, 2 for a mistake of the user's, 1 for a failure at run time, or 75 to be started again.

    Args:
        args: Command and options; ``None`` takes those of the process, which is to end with what is returned.

    Raises:
        Exception: A bug, for its traceback; with ``--debug`` any error.
    """
    if args is not None:
        return _result(args)
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        return _result(sys.argv[1:])
    from torch.distributed import get_backend, is_initialized  # what the help need not wait for

    from fastvmt_pl.processes.ending import EndAtOnce

    warnings.formatwarning = lambda message, *_: f"fastvmt: warning: {one_line(str(message))}\n"
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
        lines = [f"  {name:10} {summary}" for name, summary in COMMANDS.items()]
        print("usage: fastvmt COMMAND ... [--debug]\n\nfastvmt COMMAND --help tells more.\n\n" + "\n".join(lines))
        return 0
    from safetensors import SafetensorError

    from fastvmt_pl.processes.stop_request import REQUEUE_CODE, Preempted

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
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; use {', '.join(COMMANDS)}")
    if name in ("fit", "train"):  # a LightningCLI, whose own sub-command is fit
        from fastvmt_pl.cli.words import with_underscores
        from fastvmt_pl.runs.lightning_cli import FitCLI, TrainCLI

        (FitCLI if name == "fit" else TrainCLI)(["fit", *with_underscores(args)])
        return
    from fastvmt_pl.cli.words import parse
    from fastvmt_pl.runs.old_spellings import OPTIONS

    file = import_module(f"fastvmt_pl.cli.{name}")
    command = file.command(args) if name == "transfer" else file.COMMAND
    options = parse(f"fastvmt {name}", COMMANDS[name], command, args, OPTIONS.get(name, {}))
    (command.run or command.function)(**options)


def _report(error: Exception, code: int, debug: bool) -> int:
    """Print an error on one line, or raise it for its traceback."""
    if debug:
        raise error
    print(f"fastvmt: error: {one_line(str(error))}", file=sys.stderr)
    return code
