import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAPPED = ("callbacks", "configs", "datamodules")


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [file.parent for top in ("fastvmt_pl", *MAPPED) for file in (ROOT / top).rglob("__init__.py")]
    names = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    assert sorted(listed) == sorted(f"fastvmt_pl.{name}" if name.startswith(MAPPED) else name for name in names)
