"""The command line, and the one file that composes modules, datamodules and callbacks."""

import argparse
import json
import re
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from safetensors import SafetensorError

from fastvmt_pl.backbones.folder import BUNDLED, read_json, resolve_model
from fastvmt_pl.backbones.wan import Precision
from fastvmt_pl.callbacks import RunFolder, TransferProgress
from fastvmt_pl.datamodules import MotionDataModule, check_file
from fastvmt_pl.files import written_whole
from fastvmt_pl.jobs import TransferResult
from fastvmt_pl.motion_transfer import MotionTransfer

CONFIGS = Path(str(files("fastvmt_pl.configs")))


class TransferCLI(LightningCLI):
    """LightningCLI for motion transfer; the trainer's epochs follow from the guided steps.

    Jobs on several devices share nothing but files, so a trainer has one device unless the config says otherwise.
    """

    def __init__(self, args: list[str], trainer_defaults: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(
            MotionTransfer,
            MotionDataModule,
            args=args,
            trainer_defaults={"devices": 1, "log_every_n_steps": 1, **(trainer_defaults or {})},
            seed_everything_default=False,  # each job's noise has a seed of its own
            auto_configure_optimizers=False,  # the optimiser is the module's
            parser_kwargs={"prog": "fastvmt", "exit_on_error": False, "fit": {"exit_on_error": False}},
            **options,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out validate, test and predict, which motion transfer does not have."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what would otherwise have to be said twice."""
        parser.link_arguments("model.num_guided_steps", "trainer.max_epochs")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, without Lightning's warning that the process has arguments of its own."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Refuse clips and settings that do not go with the model before anything is loaded or written."""
        self.datamodule.read_clips(self.model)
        return super().instantiate_trainer(**options)


class FitCLI(TransferCLI):
    """The command ``fit``: results, progress and a checkpoint to resume from, unless the config brings its own."""

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Add what the config leaves out."""
        given = self.config_init["fit"]["trainer"]
        defaults: list[Callback] = [RunFolder()]
        if given["enable_progress_bar"] is not False:
            defaults.append(TransferProgress())
        if given["enable_checkpointing"] is not False:
            defaults.append(ModelCheckpoint(save_top_k=0, save_last=True, save_on_train_epoch_end=True))
        callbacks = given["callbacks"] or []
        brought = tuple(type(each) for each in ([callbacks] if isinstance(callbacks, Callback) else callbacks))
        self.trainer_defaults["callbacks"] = [each for each in defaults if not issubclass(type(each), brought)]
        return super().instantiate_trainer(**options)


def transfer(
    clip: str,
    prompt: str,
    model: str | None = None,
    output: Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    guided_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    strength: float | None = None,
    num_frames: int | None = None,
    size: str | None = None,
    device: str | None = None,
    dtype: Precision | None = None,
    baseline: bool | None = None,
    config: Path | None = None,
) -> TransferResult:
    """Make a video that shows a prompt and moves as a clip moves.

    Writes a folder with the video, the same video without guidance, both beside the clip, pictures of the motion, and
    measures. A run that was stopped goes on where it was when it is started again with the same settings.

    Args:
        clip: Video file whose motion is wanted.
        prompt: What the new video is to show: its content and look, not its motion.
        model: wan-tiny (bundled, and taken if neither this nor a config names one), a local diffusers folder, or a hub
            id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        output: Folder for the results; made of clip, prompt and seed under runs/ if left out.
        seed: Seed of the noise.
        steps: Denoising steps.
        guided_steps: How many of them, from the first, are guided; the config's share of the steps if left out.
        guidance_scale: How closely to follow the prompt; 1 turns classifier-free guidance off.
        negative_prompt: What to steer away from.
        strength: Where to start: 1 is pure noise, less keeps some of the clip's layout.
        num_frames: Frames to read and to make, 4 n + 1.
        size: Height x width in pixels, such as 480x832, multiples of 16.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights.
        baseline: Also make the video without guidance, to compare.
        config: YAML file of settings, all of which the other options override; one that fits the model if left out.

    Returns:
        The video's latents and pictures, and the baseline's pictures.

    Raises:
        ValueError: If a setting, the clip, the model or the folder cannot be used; the message says what to change.
    """
    check_file(clip)
    folder = output or Path("runs") / _slug(Path(clip).stem, prompt, str(seed))
    callbacks = [
        RunFolder(folder),
        TransferProgress(),
        ModelCheckpoint(folder / "checkpoints", save_top_k=0, save_last=True, save_on_train_epoch_end=True),
    ]
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "logs", "version": ""}}
    model = model or ("wan-tiny" if config is None else None)
    path = config or default_config(model or "wan-tiny")
    if steps is not None and guided_steps is None:
        guided_steps = _guided_share(path, steps)
    options = {
        "model.backbone.init_args.model": model,
        "model.backbone.init_args.dtype": dtype,
        "model.num_steps": steps,
        "model.num_guided_steps": guided_steps,
        "model.guidance_scale": guidance_scale,
        "model.negative_prompt": negative_prompt,
        "model.strength": strength,
        "model.baseline": baseline,
        "data.clips": [clip],
        "data.prompts": [prompt],
        "data.seed": seed,
        "data.num_frames": num_frames,
        "data.size": None if size is None else _parse_size(size),
        **({} if device is None else _parse_device(device)),
    }
    cli = TransferCLI(
        args=[
            f"--config={path}",
            *(f"--{name}={_as_text(value)}" for name, value in options.items() if value is not None),
        ],
        trainer_defaults={"callbacks": callbacks, "logger": logger, "enable_model_summary": False},
        run=False,
        save_config_callback=None,
    )
    _claim(folder, cli.parser.dump(cli.config, skip_link_targets=False))
    last = folder / "checkpoints" / "last.ckpt"
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last if last.exists() else None, weights_only=True)
    result: TransferResult = cli.model.result
    print(f"the result lies in {folder}")
    return result


def default_config(model: str) -> Path:
    """Return the shipped config that fits a model, by its size."""
    if model in BUNDLED:
        return CONFIGS / f"{model.replace('-', '_')}.yaml"
    num_layers = read_json(resolve_model(model, weights=False) / "transformer" / "config.json").get("num_layers")
    return CONFIGS / ("wan2.1_14b.yaml" if num_layers == 40 else "wan2.1_1.3b.yaml")


def _guided_share(config: Path, num_steps: int) -> int:
    """Return as large a share of the steps as the config guides."""
    model = (yaml.safe_load(config.read_text()) or {}).get("model", {})
    share: float = model.get("num_guided_steps", 10) / model.get("num_steps", 50)
    return min(num_steps, round(share * num_steps))


def _claim(folder: Path, config: str) -> None:
    """Make the run folder with its config, or see that it is this very run's.

    Raises:
        ValueError: If the folder holds something else.
    """
    path = folder / "config.yaml"
    if path.exists() and path.read_text() != config:
        raise ValueError(f"{folder} holds a run with other settings; choose another --output")
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is in use and holds no run; choose another --output")
        with written_whole(path) as temporary:
            temporary.write_text(config)


def _parse_size(size: str) -> list[int]:
    match = re.fullmatch(r"(\d+)x(\d+)", size.lower())
    if match is None:
        raise ValueError(f"size is {size!r}; give height x width in pixels, such as 480x832")
    return [int(match[1]), int(match[2])]


def _parse_device(device: str) -> dict[str, Any]:
    match = re.fullmatch(r"(auto|cpu|cuda|mps)|cuda:(\d+)", device)
    if match is None:
        raise ValueError(f"device is {device!r}; use auto, cpu, cuda, cuda:1 or mps")
    return {"trainer.accelerator": match[1] or "cuda", "trainer.devices": 1 if match[2] is None else [int(match[2])]}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slug(*parts: str) -> str:
    return "-".join(re.sub(r"\W+", "-", part.lower()).strip("-")[:40].rstrip("-") for part in parts)


class HyphenParser(jsonargparse.ArgumentParser):
    """A parser whose options have hyphens, where the parameters that they stand for have underscores."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument."""
        hyphenated = [name.replace("_", "-") if name.startswith("-") else name for name in names]
        action: argparse.Action = super().add_argument(*hyphenated, **options)
        return action


def fit(args: list[str]) -> None:
    """Run the LightningCLI itself: ``fastvmt fit --config FILE``, with every setting of every class."""
    FitCLI(["fit", *args])


def run_transfer(args: list[str]) -> None:
    """Run :func:`transfer` from the command line."""
    parser = HyphenParser(
        prog="fastvmt transfer", description=DESCRIPTIONS["transfer"] + HELP, exit_on_error=False, print_config=None
    )
    parser.add_function_arguments(transfer, as_group=False, as_positional=True, fail_untyped=True)
    transfer(**parser.instantiate_classes(parser.parse_args(args)).as_dict())


HELP = """

Writes a folder with the video (output.mp4), the same video without guidance (baseline.mp4), both beside the clip
(comparison.mp4), pictures of the motion, measures and all settings. A run that was stopped goes on where it was when it
is started again with the same settings. An option that is left out (null) is the config's. Example:
fastvmt transfer clip.mp4 "a red circle on a gray background" --steps 30 --output runs/circle
"""
DESCRIPTIONS = {
    "transfer": "Make a video that shows a prompt and moves as a clip moves.",
    "fit": "The same job as a LightningCLI: every setting of every class, from YAML files and options.",
}
COMMANDS: dict[str, Callable[[list[str]], None]] = {"transfer": run_transfer, "fit": fit}


def main(args: list[str] | None = None) -> int:
    """Run a command; return 0, or 2 for a mistake of the user's, or 1 for a failure at run time.

    Args:
        args: Command and options; those of the process if left out.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:10} {text}" for name, text in DESCRIPTIONS.items()]
        print("usage: fastvmt COMMAND ... [--debug]\n\nfastvmt COMMAND --help tells more.\n\n" + "\n".join(lines))
        return 0
    command = COMMANDS.get(args[0])
    try:
        if command is None:
            raise ValueError(f"there is no command {args[0]!r}; use {', '.join(COMMANDS)}")
        command(args[1:])
    except (ValueError, argparse.ArgumentError, MisconfigurationException) as error:
        return _report(error, 2, debug)
    except SafetensorError as error:
        return _report(RuntimeError(f"a file of weights is damaged ({error}); fetch the model again"), 1, debug)
    except (RuntimeError, OSError) as error:
        return _report(error, 1, debug)
    return 0


def _report(error: Exception, code: int, debug: bool) -> int:
    """Print an error on one line, or raise it for its traceback."""
    if debug:
        raise error
    print(f"fastvmt: error: {_one_line(str(error))}", file=sys.stderr)
    return code


def _one_line(message: str) -> str:
    r"""Join the lines of a message, and say in fewer words which types jsonargparse would have taken.

    >>> _one_line("a\n  b")
    'a b'
    """
    message = re.sub(r"\s+", " ", message).strip()
    types = (
        r"Does not validate against any of the Union subtypes Subtypes: [\[(](.*?)[\])] Errors: .* Given value: (.*)"
    )
    no_list = re.fullmatch(r"""Parser key "([^"]+)": ('utf-8' codec|Expected a <class '.*Sequence'>).*""", message)
    if no_list is not None:
        return f"""{no_list[1]} is a list; write it as '["first", "second"]', or '["first"]' for a single one"""
    found = re.fullmatch(rf'Parser key "([^"]+)": {types}', message)
    if found is None:
        return message
    name, allowed, given = found.groups()
    allowed = re.sub(r"<class '(.*?)'>|typing\.Literal\[(.*?)\]", r"\1\2", allowed).replace(", NoneType", "")
    return f"{name} is {given!r}; use {allowed}"
