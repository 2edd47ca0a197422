"""Callbacks: gradient caching, progress, and the run folder."""

from .gradient_cache import GradientCache
from .progress import TransferProgress
from .run_folder import RunFolder

__all__ = ["GradientCache", "RunFolder", "TransferProgress"]
