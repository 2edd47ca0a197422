"""Keep libraries from speaking while a function of this one runs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

LOGGERS = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, Lightning says nothing of devices and epochs, and libraries neither warn nor show bars."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    shown = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for each in shown:
        each.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(jsonargparse|lightning|diffusers|transformers)\.")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for each in shown:
            each.enable_progress_bar()
