"""Find the file of a LoRA, and read its settings."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fastvmt_pl.errors import UserError

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The file that diffusers loads. Its header holds the adapter's settings, such as alpha."""
BUNDLED = {"wan-tiny-few-steps": Path(__file__).parent / "wan_tiny_few_steps.safetensors"}
"""LoRAs that ship with this package: wan-tiny's own sampling in four steps, by ``scripts/wan_tiny/few_steps.py``."""
PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
"""Files of peft's ``save_pretrained``. Only the second holds alpha."""
HEADER_KEY = "lora_adapter_metadata"


def unfit(path: Path, reason: str) -> UserError:
    """Return the error for a LoRA that cannot be applied."""
    return UserError(f"LoRA {path} cannot be applied: {reason}")


def find_lora(path: str | Path) -> Path:
    """Return the safetensors file of a LoRA, given the file, its folder, or the name of one that is bundled.

    Raises:
        UserError: If it does not exist.
    """
    given = Path(path).expanduser()
    if str(path) in BUNDLED and not given.exists():
        return BUNDLED[str(path)]
    file = given / DIFFUSERS_FILE if given.is_dir() else given
    if file.suffix != ".safetensors" or not file.is_file():
        raise UserError(
            f"LoRA {path} does not exist; give a .safetensors file, a folder with {DIFFUSERS_FILE}, or the bundled "
            f"{', '.join(BUNDLED)}"
        )
    return file


def lora_files(path: Path) -> list[Path]:
    """Return a LoRA's file and, if it exists, the file of peft's settings in the same folder."""
    beside = path.with_name(PEFT_SETTINGS)
    return [path, beside] if beside.exists() else [path]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        file = safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise unfit(path, f"it cannot be read ({error}); get the file again") from error
    with file:
        yield file


def read_settings(path: Path, header: Mapping[str, str] | None, *, needed: bool) -> dict[str, Any] | None:
    """Return the settings of a LoRA by their names in peft, or ``None`` if it has none.

    Args:
        path: The file.
        header: Metadata of the file.
        needed: Whether peft wrote the file, so that its alpha is unknown without settings.

    Raises:
        UserError: If they are damaged, missing, or those of another method.
    """
    text, beside = (header or {}).get(HEADER_KEY), path.with_name(PEFT_SETTINGS)
    # A file of settings in the same folder may be another LoRA's: two of the three signs of peft have to be there.
    if text is None and sum((needed, path.name == PEFT_FILE, beside.exists())) < 2:
        return None
    try:
        settings = json.loads(beside.read_text(encoding="utf-8-sig") if text is None else text)
    except (OSError, ValueError) as error:
        where = PEFT_SETTINGS if text is None else f"{HEADER_KEY} in its header"
        raise unfit(path, f"{where}, which holds its alpha, cannot be read ({error})") from error
    own = _of_transformer(settings) if isinstance(settings, dict) else {}
    if not all(_is_number(own.get(name)) for name in ("r", "lora_alpha")) or own["r"] < 1:
        raise unfit(path, "its settings have no r and lora_alpha; save it again with diffusers or peft")
    _refuse_variants(path, own)
    return own


def _of_transformer(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without the prefix that diffusers' pipelines, but not its transformers, write."""
    own = {name.removeprefix("transformer."): x for name, x in settings.items() if name.startswith("transformer.")}
    return own or settings


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


VARIANTS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "layer_replication",
    "target_parameters",
)
"""Settings of peft with which an update is not just ``B @ A`` of a layer's weight."""
HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the model's own weights as they are."""


def _refuse_variants(path: Path, settings: dict[str, Any]) -> None:
    for name in VARIANTS:
        if settings.get(name):
            raise unfit(path, f"its settings have {name}: {settings[name]!r}; use a plain LoRA")
    start = settings.get("init_lora_weights")
    if start not in HARMLESS_STARTS:
        raise unfit(path, f"its init_lora_weights is {start!r}, which changes the base model; convert it to plain LoRA")
