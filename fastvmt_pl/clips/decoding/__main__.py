"""The process that decodes. The rest of the package, whose imports take seconds, is not imported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from decoding.server import main

sys.path.pop(0)  # the files beside this folder must not hide modules of the same name
main()
