from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan

from fastvmt_pl.backbones.untrained import FAKE
from fastvmt_pl.planning.meter import TensorMeter
from fastvmt_pl.planning.replay import Replay

WAN = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}
PATCHED = {"is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16}
COGVIDEOX = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "block_out_channels": (8, 8, 8, 8),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
}


def counted(vae, replayed):
    """Readings of encoding and decoding a video of 17 frames, and how often encoder and decoder ran."""
    with FAKE:
        video = torch.empty(1, 3, 17, 96, 144)
    runs = []
    for part in (vae.encoder, vae.decoder):
        part.conv_in.register_forward_hook(lambda *_, part=part: runs.append(part))
    readings = []
    with TensorMeter() as meter, torch.no_grad():
        if replayed:
            _ = Replay(vae.encoder, meter), Replay(vae.decoder, meter)
        with meter.reading() as reading:
            latents = vae.encode(video).latent_dist.mode()
        readings.append(reading)
        with meter.reading() as reading:
            decoded = vae.decode(latents).sample
        readings.append(reading)
    assert decoded.shape[:3] == video.shape[:3]
    return [(reading.growth, reading.flops) for reading in readings], len(runs)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize(
    ("made", "settings"),
    [(AutoencoderKLWan, WAN), (AutoencoderKLWan, WAN | PATCHED), (AutoencoderKLCogVideoX, COGVIDEOX)],
    ids=["wan", "patched", "cogvideox"],
)
def test_repeated_calls_count_as_if_they_ran(made, settings, tiled):
    with FAKE:
        vae = made(**settings).eval()
    if tiled:
        vae.enable_tiling()
        vae.tile_sample_min_height = vae.tile_sample_min_width = 64
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = 48
        vae.tile_latent_min_height = vae.tile_latent_min_width = 8
    whole, num_calls = counted(deepcopy(vae), replayed=False)
    found, num_runs = counted(vae, replayed=True)
    assert found == whole
    assert num_runs < num_calls or not tiled
