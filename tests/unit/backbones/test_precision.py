"""What ``dtype: auto`` is, on machines of all kinds."""

import platform

import pytest
import torch
from jsonargparse import Namespace

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.precision import settle_config, settled

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize("given", ["float32", "bfloat16", "float16"])
def test_a_precision_that_is_named_is_taken_everywhere(given):
    assert settled(given, CPU) == settled(given, META) == given


@pytest.mark.parametrize(
    ("machine", "in_onednn", "avx512_bf16", "expected"),
    [
        ("x86_64", True, True, "bfloat16"),  # Sapphire Rapids, Zen 4
        ("x86_64", True, False, "float32"),  # Skylake: oneDNN emulates bfloat16 with AVX-512
        ("x86_64", False, False, "float32"),  # AVX2
        ("x86_64", False, True, "float32"),  # ONEDNN_MAX_CPU_ISA=AVX2
        ("aarch64", True, False, "bfloat16"),  # Graviton 3
        ("aarch64", False, False, "float32"),
    ],
)
def test_auto_is_bfloat16_on_a_cpu_that_has_instructions_for_it(monkeypatch, machine, in_onednn, avx512_bf16, expected):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: in_onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert settled("auto", CPU) == expected


def test_auto_is_float32_where_torch_has_no_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert settled("auto", CPU) == "float32"


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")])
def test_auto_is_bfloat16_on_a_gpu_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settled("auto", torch.device("cuda", 0)) == expected


def test_auto_is_float32_on_other_devices():
    assert settled("auto", torch.device("mps")) == settled("auto", META) == "float32"


def test_a_backbone_settles_for_the_device_that_it_is_on_when_its_weights_are_needed():
    backbone = DiffusersBackbone(dtype="auto").to("cpu").to("meta")
    assert backbone.dtype == torch.float32
    assert backbone.to("cpu").dtype == torch.float32  # weights that have been read are not converted


def test_a_fingerprint_tells_what_was_computed_with():
    assert DiffusersBackbone(dtype="auto").fingerprint() == DiffusersBackbone(dtype=settled("auto", CPU)).fingerprint()


def test_a_config_is_settled_if_it_leaves_the_precision_open():
    for given, expected in (("auto", "float32"), ("float16", "float16")):
        backbone = Namespace(class_path="any", init_args=Namespace(model="any", dtype=given))
        settle_config(backbone, META)
        assert backbone.init_args.dtype == expected
    of_ones_own = Namespace(class_path="any")
    settle_config(of_ones_own, META)
    assert of_ones_own == Namespace(class_path="any")
