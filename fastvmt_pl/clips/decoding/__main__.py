"""The decoding process. It does not import the rest of the package, which takes seconds."""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
server = import_module("decoding.server")  # under a name that type checkers do not know
sys.path.pop(0)  # the files beside this folder must not hide modules of the same name
server.main()
