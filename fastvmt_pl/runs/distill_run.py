"""``fastvmt distill``: from a clip to a LoRA of its motion."""

from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from fastvmt_pl.backbones.families.finding import family_of
from fastvmt_pl.backbones.precision import PrecisionOption
from fastvmt_pl.callbacks import LastCheckpoint, LoraExport, LoraPreviews, Preemption, StopAtLeak
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.identity import Settings, identity_of
from fastvmt_pl.runs.lightning_cli import DistillCLI, TransferCLI
from fastvmt_pl.runs.options import as_arguments, default_config, default_lora_config, default_prompts, parse_device, parse_size, read_config, read_prompts, run_loggers
from fastvmt_pl.files.names import slug
from fastvmt_pl.runs.teacher import make_samples
from fastvmt_pl.clips import check_file
from fastvmt_pl.datamodules.distillation_datamodule import Source
from fastvmt_pl.distillation.shard_index import read_index
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import naming
from fastvmt_pl.distillation.motion_distillation import Objective
from fastvmt_pl.processes.stop_request import StopRequest, listening

NUM_PREVIEWS = 4
OWN = ("clip_prompt", "num_prompts", "teacher_batch", "max_flow_error", "max_leak", "previewed")
"""What changes the result and is in neither config; the teacher's has the clip."""


def distill(
    clip: str,
    clip_prompt: str,
    model: str | None = None,
    output: Path | None = None,
    prompts: Path | None = None,
    num_prompts: int | None = None,
    source: Source | None = None,
    objective: Objective | None = None,
    seed: int = 0,
    epochs: int | None = None,
    rank: int | None = None,
    batch_size: int | None = None,
    teacher_batch: int | None = None,
    max_flow_error: float = 0.7,
    max_leak: float = 0.1,
    num_frames: int | None = None,
    size: str | None = None,
    fps: float | None = None,
    device: str | None = None,
    dtype: PrecisionOption | None = None,
    teacher_config: Path | None = None,
    config: Path | None = None,
) -> Path:
    """Distil a clip's motion into a LoRA.

    Args:
        clip: Video file, or folder of numbered pictures, whose motion is wanted.
        clip_prompt: What the clip shows, so that the LoRA learns its motion and not its look.
        model: wan-tiny (bundled, and taken if neither this nor the configs name one), a local diffusers folder, or a
            hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        output: Folder for data, checkpoints and LoRA; by default one under runs/ that is named after clip and seed.
        prompts: Text file with a prompt a line, for guided samples and then for previews; shipped ones if left out.
        num_prompts: How many of them guided samples are made of; by default all but four, up to 24. The next four are
            previewed, or the first four if none is left.
        source: Learn from the guided samples, from the clip itself, or from both (mix); the config's if left out, or
            mix.
        objective: flow_matching, or trajectory: the guided sampler's own path, which the clip does not have; the
            config's if left out, or flow_matching.
        seed: Seed of the first sample's noise, of the training and of its order.
        epochs: How long to train, in epochs of the config.
        rank: Rank of the LoRA.
        batch_size: Videos a training step.
        teacher_batch: Guided samples that are made at a time; 8 on wan-tiny and 1 on other models if left out.
        max_flow_error: Drop samples whose flow of the attention differs more from the clip's, as a share of the clip's.
        max_leak: With the clip among the sources, stop when the previews have more than this of its colours.
        num_frames: Frames to read and to make, 4 n + 1.
        size: Height x width in pixels, such as 480x832, multiples of 16.
        fps: Pictures a second of a clip that is a folder of numbered pictures.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights; auto is bfloat16 where the device has instructions for it, or float32.
        teacher_config: YAML file of settings of the guided transfer; one that fits the model if left out.
        config: YAML file of settings of the training; one that fits the model if left out.

    Returns:
        The folder of the LoRA.

    Raises:
        ValueError: If a setting, the clip, the model or the folder cannot be used; the message says what to change.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    check_file(clip)
    options = {name: str(value) for name, value in locals().items() if name != "output"}
    if model is None and (teacher_config is None) != (config is None):
        raise UserError("with one config of your own, name the model too, for the other one: --model wan-tiny")
    if model is None and config is None:
        model = "wan-tiny"
    lora_config = config or default_lora_config(str(model))
    usual = model or _model_of(lora_config)
    source, objective = _learned(lora_config, source, objective)
    listed = read_prompts(prompts or default_prompts(usual))
    num_prompts = max(1, min(24, len(listed) - NUM_PREVIEWS)) if num_prompts is None else num_prompts
    teacher_batch = family_of(usual).defaults.teacher_batch if teacher_batch is None else teacher_batch
    _check(clip_prompt, source, objective, num_prompts, teacher_batch)
    if source != "clip" and len(listed) < num_prompts:
        raise UserError(f"there are {len(listed)} prompts; use --num-prompts of at most that, or a longer --prompts")
    previewed = (listed[num_prompts:] or listed)[:NUM_PREVIEWS]
    folder = output or Path("runs") / slug("lora", Path(clip).stem, str(seed))
    if (folder / "lora" / "README.md").exists():
        raise UserError(f"{folder} holds a finished run; choose another output, or delete this one")
    request = StopRequest()
    shared = {
        "model.backbone.init_args.model": model,
        "model.backbone.init_args.dtype": dtype,
        "trainer.devices": 1,
        **({} if device is None else parse_device(device)),
    }
    teacher = TransferCLI(
        args=as_arguments(
            teacher_config or default_config(usual),
            {
                **shared,
                "model.baseline": False,
                "model.strength": 1.0,  # samples are to have nothing of the clip but its motion
                "model.keep_trajectory": objective == "trajectory",
                "data.clips": [clip],
                "data.prompts": listed[:num_prompts],
                "data.seed": seed,
                "data.num_frames": num_frames,
                "data.size": None if size is None else parse_size(size),
                "data.fps": fps,
            },
        ),
        trainer_defaults={
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        run=False,
        save_config_callback=None,
    )
    (read,) = teacher.datamodule.read_clips(teacher.model)
    previews = LoraPreviews(
        previewed,
        folder / "previews",
        num_steps=teacher.model.num_steps,
        guidance_scale=teacher.model.guidance_scale,
        shift=teacher.config["model"]["shift"],
        motion=teacher.datamodule.motion,
        fps=read.fps,
        seed=seed,
    )
    training = DistillCLI(
        args=as_arguments(
            lora_config,
            {
                **shared,
                "model.objective": objective,
                "model.rank": rank,
                "model.negative_prompt": teacher.model.negative_prompt,
                "model.seed": seed,
                "data.folder": str(folder / "data"),
                "data.source": source,
                "data.batch_size": batch_size,
                "data.seed": seed,
                "trainer.max_epochs": epochs,
            },
        ),
        trainer_defaults={
            "callbacks": [
                previews,
                *([] if source == "samples" else [StopAtLeak(max_leak)]),
                LoraExport(folder / "lora"),
                RichProgressBar(),
                LastCheckpoint(folder / "checkpoints"),
                Preemption(request),
            ],
            "logger": run_loggers(folder),
            "enable_model_summary": False,
        },
        run=False,
        save_config_callback=None,
    )
    _check_same_model(training, teacher, warn=config is not None)
    training.model.backbone = teacher.model.backbone  # which need not be in memory twice
    options |= {"num_prompts": str(num_prompts), "teacher_batch": str(teacher_batch), "previewed": str(previewed)}
    config_text, teacher_text = (cli.parser.dump(cli.config, skip_link_targets=False) for cli in (training, teacher))
    texts = {"config": config_text, "teacher": teacher_text, "distill": yaml.safe_dump(options)}
    with listening(request), claimed_folder(folder, partial(_identity, defaults=options), **texts):
        made = listed[:num_prompts] if source != "clip" else []
        make_samples(teacher, clip_prompt, made, folder / "data", teacher_batch, max_flow_error, [Preemption(request)])
        if made and not any(shard.num_samples for shard in read_index(folder / "data") if shard.source == "samples"):
            raise UserError(
                f"no sample moves as the clip does; use a --max-flow-error above {max_flow_error} and another --output"
            )
        last = folder / "checkpoints" / "last.ckpt"
        with naming(folder):
            training.trainer.fit(
                training.model, training.datamodule, ckpt_path=last if last.exists() else None, weights_only=True
            )
    print(f"the LoRA is in {folder / 'lora'}")
    return folder / "lora"


def _identity(files: dict[str, Any], defaults: dict[str, str]) -> Settings:
    """Return what changes a distillation's result, given its files; an older version wrote no defaults to them."""
    own, teacher = files.get("distill") or {}, identity_of(files.get("teacher") or {})
    return {
        **identity_of(files.get("config") or {}),
        **{f"teacher.{name}": value for name, value in teacher.items()},
        **{name: defaults[name] if own.get(name, "None") == "None" else own[name] for name in OWN},
    }


def _learned(config: Path, source: Source | None, objective: Objective | None) -> tuple[Source, Objective]:
    """Return the source and the objective: as given, else the config's, else the usual ones."""
    settings = read_config(config)
    data, model = (settings.get(name) or {} for name in ("data", "model"))
    return source or data.get("source", "mix"), objective or model.get("objective", "flow_matching")


def _model_of(config: Path) -> str:
    """Return the model that a config of the training names."""
    backbone = (read_config(config).get("model") or {}).get("backbone") or {}
    return str((backbone.get("init_args") or {}).get("model", "wan-tiny"))


def _check_same_model(training: DistillCLI, teacher: TransferCLI, warn: bool) -> None:
    """Refuse two models, and if wanted warn of other settings of the backbone than the teacher's, which both use."""
    own, used = (cli.config["model"]["backbone"].as_dict() for cli in (training, teacher))
    names = [backbone["init_args"]["model"] for backbone in (own, used)]
    if names[0] != names[1]:
        raise UserError(f"the training's config names {names[0]} and the teacher's {names[1]}; use --model for both")
    if warn and own != used:
        rank_zero_warn(f"training uses the backbone of the teacher's config: {used}")


def _check(clip_prompt: str, source: Source, objective: Objective, num_prompts: int, teacher_batch: int) -> None:
    if not clip_prompt.strip():
        raise UserError("the clip's prompt is empty; say what the clip shows, and not how it moves")
    if objective == "trajectory" and source != "samples":
        raise UserError("the clip has no trajectory; use --source samples with --objective trajectory")
    if num_prompts < 1 or teacher_batch < 1:
        raise UserError(f"num_prompts is {num_prompts} and teacher_batch {teacher_batch}; use at least 1 of each")
