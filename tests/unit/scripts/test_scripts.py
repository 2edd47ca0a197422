"""Scripts are run by hand, so at least what they import has to be there."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.py")), ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_what_a_script_imports_is_there(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location("_script", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]:
        if Path(sys.modules[name].__file__).parent == path.parent:
            del sys.modules[name]
