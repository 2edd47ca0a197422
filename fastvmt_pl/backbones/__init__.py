"""Pretrained video diffusion transformers of several families, all of them used in the same way."""

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.diffusers_backbone import DiffusersBackbone, load_backbone
from fastvmt_pl.backbones.request import Capture, Request

__all__ = ["Backbone", "Capture", "Condition", "DiffusersBackbone", "Request", "load_backbone"]
