import ast
import tomllib
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
FOLDERS = {name: ROOT / folder for name, folder in SETTINGS["setuptools"]["package-dir"].items()}
LAYERS = SETTINGS["fastvmt_pl"]["layers"]
PUBLIC = len(LAYERS)
"""The layer of ``fastvmt_pl`` itself, which hands on names of all the others."""


def _modules():
    """Returns the file of each module by the name under which it is imported."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


MODULES = _modules()


def _imported(name):
    """Returns the modules of this package that a module imports, anywhere in its file."""
    file, found = MODULES[name], set()
    parents = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            inside = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside or {source}
    return found & MODULES.keys()


IMPORTS = {name: _imported(name) for name in MODULES}


def _layer(module):
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 and parts[1] != "__main__" else PUBLIC


def test_every_package_has_a_layer():
    assert {name.split(".")[1] for name in MODULES if "." in name} == {*LAYERS, "__main__", "configs"}


@pytest.mark.parametrize("module", [name for name in sorted(MODULES) if not name.endswith(".configs")])
def test_a_module_imports_from_no_higher_layer(module):
    """So packages form no circle, and only what composes runs imports callbacks and datamodules."""
    assert [other for other in sorted(IMPORTS[module]) if _layer(other) > _layer(module)] == []


def test_modules_form_no_circle():
    list(TopologicalSorter(IMPORTS).static_order())


def test_file_names_are_unique():
    names = Counter(file.name for file in MODULES.values())
    repeated = {name for name, count in names.items() if count > 1}
    assert repeated <= {"__init__.py", "__main__.py"}
