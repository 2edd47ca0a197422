"""Distil a clip's motion into a LoRA: guided samples, training, export."""

from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from fastvmt_pl.backbones.families.finding import family_of
from fastvmt_pl.backbones.precision import PrecisionOption
from fastvmt_pl.callbacks import LastCheckpoint, LoraExport, LoraPreviews, Preemption, StopAtLeak, TransferProgress
from fastvmt_pl.clips import check_file
from fastvmt_pl.datamodules.distillation_datamodule import Source
from fastvmt_pl.distillation.motion_distillation import Expert, Objective
from fastvmt_pl.distillation.shard_index import read_index
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.names import slug
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.composition import compose, compose_training
from fastvmt_pl.runs.identity import Settings, identity_of
from fastvmt_pl.runs.lightning_cli import DistillCLI, TransferCLI
from fastvmt_pl.runs.old_spellings import OPTIONS, new_names
from fastvmt_pl.runs.options import (
    default_config,
    default_lora_config,
    default_prompts,
    parse_device,
    parse_size,
    read_prompts,
    run_loggers,
)
from fastvmt_pl.runs.settings import Config, merged, read_config
from fastvmt_pl.runs.teacher import make_samples
from fastvmt_pl.runs.transfer_options import fit

NUM_PREVIEWS = 4
OWN = ("clip_prompt", "num_prompts", "teacher_batch_size", "max_flow_error", "max_leak", "previewed")
"""What changes the result and is in neither config; the teacher's has the clip."""


def distill(
    clip: str,
    clip_prompt: str,
    model: str | None = None,
    output: Path | None = None,
    prompts: Path | None = None,
    image: Path | None = None,
    num_prompts: int | None = None,
    source: Source | None = None,
    objective: Objective | None = None,
    few_steps: int | None = None,
    seed: int = 0,
    max_epochs: int | None = None,
    rank: int | None = None,
    expert: Expert | None = None,
    batch_size: int | None = None,
    teacher_batch_size: int | None = None,
    max_flow_error: float = 0.7,
    max_leak: float = 0.1,
    num_frames: int | None = None,
    size: str | None = None,
    fps: float | None = None,
    device: str | None = None,
    dtype: PrecisionOption | None = None,
    teacher_config: Path | None = None,
    config: Path | None = None,
    request: StopRequest | None = None,
    progress: bool = False,
) -> Path:
    """Distil a clip's motion into a LoRA.

    Args:
        clip: Video file, or folder of numbered pictures, whose motion is wanted.
        clip_prompt: What the clip shows, so that the LoRA learns its motion and not its look.
        model: wan-tiny (bundled; the default without configs), a local diffusers folder, or a hub id such as
            Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        output: Folder for data, checkpoints and LoRA. Default: one under runs/ that is named after clip and seed.
        prompts: Text file with a prompt a line, for guided samples and then for previews. Default: a shipped one.
        image: Picture file that the guided samples and the previews begin with, for models that take one.
        num_prompts: How many of them guided samples are made of. Default: all but four, up to 24. The next four are
            previewed, or the first four if none is left.
        source: Learn from the guided samples, from the clip itself, or from both (mix). Default: the config's, or mix.
        objective: flow_matching, or trajectory: the guided sampler's own path, which the clip does not have. Default:
            the config's, or flow_matching.
        few_steps: Denoising steps that the LoRA is to need, without guidance scale; it learns the trajectories of the
            guided samples. Default: as many as the sampling has.
        seed: Seed of the first sample's noise, of the training and of its order.
        max_epochs: How long to train, in epochs of the config.
        rank: Rank of the LoRA.
        expert: Which transformer is adapted, of a model with one for high noise and one for low noise. Default: the
            config's, or both.
        batch_size: Videos a training step.
        teacher_batch_size: Guided samples that are made at a time. Default: 8 on wan-tiny, 1 on other models.
        max_flow_error: Drop samples whose attention flow differs more from the clip's, as a share of the clip's.
        max_leak: With the clip among the sources, stop when the previews have more than this of its colours.
        num_frames: Frames to read and to make; which numbers are possible is the model's rule.
        size: Height x width in pixels, such as 480x832; which are possible is the model's rule.
        fps: Pictures a second of a clip that is a folder of numbered pictures.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights; auto is bfloat16 where the device has instructions for it, or float32.
        teacher_config: YAML file of settings of the guided transfer. Default: a shipped one that fits the model.
        config: YAML file of settings of the training. Default: a shipped one that fits the model.
        request: Whether this process was asked to stop.
        progress: Show how far it is.

    Returns:
        The folder of the LoRA.

    Raises:
        ValueError: If a setting, the clip, the model or the folder cannot be used; the message says what to change.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    check_file(clip)
    unused = ("output", "request", "progress")
    options = {name: str(value) for name, value in locals().items() if name not in unused}
    if model is None and (teacher_config is None) != (config is None):
        raise UserError("with one config of your own, name the model too, for the other one: --model wan-tiny")
    if model is None and config is None:
        model = "wan-tiny"
    lora_config = read_config(config or default_lora_config(str(model)))
    usual = model or _model_of(lora_config)
    if few_steps is None:
        few_steps = (lora_config.get("model") or {}).get("few_steps")
    else:
        source, objective = source or "samples", objective or "trajectory"
    source, objective = _learned(lora_config, source, objective)
    listed = read_prompts(prompts or default_prompts(usual))
    num_prompts = max(1, min(24, len(listed) - NUM_PREVIEWS)) if num_prompts is None else num_prompts
    family = family_of(usual)
    if teacher_batch_size is None:
        teacher_batch_size = family.defaults.teacher_batch_size
    _check(clip_prompt, source, objective, num_prompts, teacher_batch_size)
    if source != "clip" and len(listed) < num_prompts:
        raise UserError(f"there are {len(listed)} prompts; use --num-prompts of at most that, or a longer --prompts")
    previewed = (listed[num_prompts:] or listed)[:NUM_PREVIEWS]
    folder = output or Path("runs") / slug("lora", Path(clip).stem, str(seed))
    if (folder / "lora" / "README.md").exists():
        raise UserError(f"{folder} holds a finished run; choose another output, or delete this one")
    shared = {
        "model.backbone.init_args.model": model,
        "model.backbone.init_args.dtype": dtype,
        "trainer.devices": 1,
        **({} if device is None else parse_device(device)),
    }
    geometry = {"data.num_frames": num_frames, "data.size": None if size is None else parse_size(size), "data.fps": fps}
    jobs = {"data.clips": [clip], "data.prompts": listed[:num_prompts], "data.seed": seed}
    jobs |= {} if image is None else {"data.images": [str(image)]}
    guided = {
        "model.baseline": False,
        "model.strength": 1.0,  # samples are to have nothing of the clip but its motion
        "model.keep_trajectory": objective == "trajectory",
    }
    teacher = compose(
        _overridden(read_config(teacher_config or default_config(usual)), {**shared, **guided, **jobs, **geometry})
    )
    if teacher.model.finish is not None:
        raise UserError("the teacher's config has a finish; leave it out: a LoRA learns the motion of the plain model")
    one_scale = objective == "trajectory" and few_steps is None
    if one_scale and teacher.model.low_noise_guidance_scale not in (None, teacher.model.guidance_scale):
        raise UserError(
            f"the teacher has a guidance_scale of {teacher.model.guidance_scale} and a low_noise_guidance_scale of "
            f"{teacher.model.low_noise_guidance_scale}; a trajectory is learned with one scale: set the second to null"
        )
    trained: dict[str, Any] = {
        "model.objective": objective,
        "model.few_steps": few_steps,
        "model.rank": rank,
        "model.expert": expert,
        "model.negative_prompt": teacher.model.negative_prompt,
        "model.seed": seed,
        "data.folder": str(folder / "data"),
        "data.source": source,
        "data.batch_size": batch_size,
        "data.seed": seed,
        "trainer.max_epochs": max_epochs,
    }
    if few_steps is not None:  # its steps are those of the sampling, and it is sampled without guidance scale
        trained |= {"model.shift": teacher.config.model.shift, "model.prompt_dropout": 0.0}
    stopping = [] if request is None else [Preemption(request)]
    callbacks = [
        _previews(teacher, previewed, folder / "previews", seed, image, few_steps),
        *([] if source == "samples" else [StopAtLeak(max_leak)]),
        LoraExport(folder / "lora"),
        *([RichProgressBar()] if progress else []),
        LastCheckpoint(folder / "checkpoints"),
        *stopping,
    ]
    shown = {"logger": run_loggers(folder), "enable_model_summary": False, "enable_progress_bar": progress}
    training = compose_training(_overridden(lora_config, {**shared, **trained}), {"callbacks": callbacks, **shown})
    _check_same_model(training, teacher, warn=config is not None)
    training.model.check_backbone(teacher.model.backbone)
    teacher.model.backbone.check_images(given=image is not None or teacher.datamodule.images is not None)
    training.model.backbone = teacher.model.backbone  # which need not be in memory twice
    options |= {"num_prompts": str(num_prompts), "teacher_batch_size": str(teacher_batch_size)}
    options["previewed"] = str(previewed)
    texts = {"config": training.config_text(), "teacher": teacher.config_text(), "distill": yaml.safe_dump(options)}
    with claimed_folder(folder, partial(_identity, defaults=options), **texts):
        num_samples = num_prompts if source != "clip" else 0
        watching = [*([TransferProgress()] if progress else []), *stopping]
        make_samples(teacher, clip_prompt, num_samples, folder / "data", teacher_batch_size, max_flow_error, watching)
        made = [shard for shard in read_index(folder / "data") if shard.source == "samples"]
        if num_samples and not any(shard.num_samples for shard in made):
            raise UserError(
                f"no sample moves as the clip does; use a --max-flow-error above {max_flow_error} and another --output"
            )
        fit(training, folder)
    return folder / "lora"


def _overridden(config: Config, given: dict[str, Any]) -> Config:
    return merged(config, {name: value for name, value in given.items() if value is not None})


def _previews(
    teacher: TransferCLI, prompts: list[str], folder: Path, seed: int, image: Path | None, few_steps: int | None
) -> LoraPreviews:
    """Return the previews of the training, sampled as the teacher samples or in few steps; reads the clip."""
    (read,) = teacher.datamodule.read_clips(teacher.model)
    return LoraPreviews(
        prompts,
        folder,
        num_steps=few_steps or teacher.model.num_steps,
        guidance_scale=1.0 if few_steps else teacher.model.guidance_scale,
        low_noise_guidance_scale=None if few_steps else teacher.model.low_noise_guidance_scale,
        shift=teacher.config.model.shift,
        motion=teacher.datamodule.motion,
        fps=read.fps,
        seed=seed,
        image=image or next(iter(teacher.datamodule.images or []), None),
    )


def _identity(files: dict[str, Any], defaults: dict[str, str]) -> Settings:
    """Return what changes a distillation's result, given its files; an older version wrote no defaults to them."""
    own = new_names(files.get("distill") or {}, OPTIONS["distill"], warn=False)
    teacher = identity_of(files.get("teacher") or {})
    return {
        **identity_of(files.get("config") or {}),
        **{f"teacher.{name}": value for name, value in teacher.items()},
        **{name: defaults[name] if own.get(name, "None") == "None" else own[name] for name in OWN},
    }


def _learned(config: Config, source: Source | None, objective: Objective | None) -> tuple[Source, Objective]:
    """Return the source and the objective: as given, else the config's, else the usual ones."""
    data, model = (config.get(name) or {} for name in ("data", "model"))
    return source or data.get("source", "mix"), objective or model.get("objective", "flow_matching")


def _model_of(config: Config) -> str:
    """Return the model that a config of the training names."""
    backbone = (config.get("model") or {}).get("backbone") or {}
    return str((backbone.get("init_args") or {}).get("model", "wan-tiny"))


def _check_same_model(training: DistillCLI, teacher: TransferCLI, warn: bool) -> None:
    """Refuse two models, and if wanted warn of other settings of the backbone than the teacher's, which both use."""
    own, used = (cli.config["model"]["backbone"].as_dict() for cli in (training, teacher))
    names = [backbone["init_args"]["model"] for backbone in (own, used)]
    if names[0] != names[1]:
        raise UserError(f"the training's config names {names[0]} and the teacher's {names[1]}; use --model for both")
    if warn and own != used:
        rank_zero_warn(f"training uses the backbone of the teacher's config: {used}")


def _check(clip_prompt: str, source: Source, objective: Objective, num_prompts: int, batch_size: int) -> None:
    if not clip_prompt.strip():
        raise UserError("the clip's prompt is empty; say what the clip shows, and not how it moves")
    if objective == "trajectory" and source != "samples":
        raise UserError("the clip has no trajectory; use --source samples with --objective trajectory")
    if num_prompts < 1 or batch_size < 1:
        raise UserError(f"num_prompts is {num_prompts} and teacher_batch_size {batch_size}; use at least 1 of each")
