"""Families of models: what is particular to each of them."""

import logging

# The project does without torchvision. transformers says so whenever it picks its other image processor.
logging.getLogger("transformers.utils.import_utils").addFilter(lambda said: "torchvision" not in said.getMessage())
