"""Find the family of a model by its folder."""

from pathlib import Path

from fastvmt_pl.backbones.families.cogvideox import CogVideoX
from fastvmt_pl.backbones.families.family import Family
from fastvmt_pl.backbones.families.wan import Wan
from fastvmt_pl.backbones.families.wan_i2v import WanImageToVideo
from fastvmt_pl.backbones.model_folder import read_json, resolve_model
from fastvmt_pl.errors import UserError

FAMILIES: dict[str, type[Family]] = {family.pipeline.__name__: family for family in (Wan, WanImageToVideo, CogVideoX)}
"""Families by the class of their stock pipeline, as a folder's ``model_index.json`` names it."""


def find_family(folder: Path, name: str) -> Family:
    """Return the family of a model, with what its configs say.

    Args:
        folder: The model's diffusers folder.
        name: What the user calls the model.

    Raises:
        ValueError: If the folder is damaged, or its model is not supported.
    """
    found = read_json(folder / "model_index.json").get("_class_name")
    if found not in FAMILIES:
        raise UserError(f"{name} holds a {found}; only {', '.join(FAMILIES)} are supported")
    return FAMILIES[found](folder, name)


def family_of(model: str | Path) -> Family:
    """Return the family of a bundled model, a local diffusers folder, or a hub id, of which only configs are fetched.

    Raises:
        ValueError: If there is no such model, or it is not supported.
    """
    return find_family(resolve_model(model, weights=False), str(model))
