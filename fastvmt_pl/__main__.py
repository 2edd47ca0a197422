"""``python -m fastvmt_pl`` is ``fastvmt``."""

import sys

from fastvmt_pl.cli.main import main

sys.exit(main())
