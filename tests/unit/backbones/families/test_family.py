"""Only the families know models: all other code of the package names none."""

import ast
import re
from pathlib import Path

import pytest

import fastvmt_pl
from fastvmt_pl.backbones import load_backbone
from fastvmt_pl.method.motion_transfer import MotionTransfer

ROOT = Path(fastvmt_pl.__file__).parent
FILES = [path for part in (ROOT, ROOT.parent / "callbacks", ROOT.parent / "datamodules") for path in part.rglob("*.py")]
ALLOWED = re.compile(
    r"wan[-_]tiny|Wan-AI/Wan2\.1-T2V-1\.3B-Diffusers|configs/wan2\.1_1\.3b\.yaml|(backbones\.wan\.)?WanBackbone"
)
"""The bundled model, the example of the messages and the help, and a name that released configs give."""


def names_in(path):
    """Yield what a file's code says: names, and texts other than docstrings."""
    tree = ast.parse(path.read_text())
    with_docstring = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, with_docstring) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        for field in ("id", "attr", "name", "module", "arg"):
            if isinstance(getattr(node, field, None), str):
                yield getattr(node, field)


def test_no_other_file_names_a_family():
    found = {
        f"{path.relative_to(ROOT.parent)}: {name}"
        for path in FILES
        if "families" not in path.parts
        for name in names_in(path)
        if re.search(r"wan(?!db|t)|cogvideo", ALLOWED.sub("", name), re.IGNORECASE)
    }
    assert not found


def test_the_check_finds_a_family_that_is_named():
    assert any("Wan" in name for name in names_in(ROOT / "backbones" / "families" / "wan.py"))


@pytest.mark.parametrize("prompt", [None, "", "mist"])
def test_the_negative_prompt_is_the_models_own_unless_one_is_given(cogvideox_5b, prompt):
    backbone = load_backbone(str(cogvideox_5b))
    module = MotionTransfer(backbone, negative_prompt=prompt)
    assert module.negative_prompt == (backbone.family.defaults.negative_prompt if prompt is None else prompt)
