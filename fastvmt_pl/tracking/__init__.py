"""Follow points through videos, and estimate their dense flow."""

from fastvmt_pl.tracking.flow import dense_flow
from fastvmt_pl.tracking.opencv import DenseFlow, LucasKanade
from fastvmt_pl.tracking.tracks import Tracker, Tracks

__all__ = ["DenseFlow", "LucasKanade", "Tracker", "Tracks", "dense_flow"]
