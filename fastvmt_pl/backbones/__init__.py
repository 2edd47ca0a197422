"""Backbones: pretrained video diffusion transformers behind one protocol."""

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.wan import WanBackbone

__all__ = ["Backbone", "WanBackbone"]
