import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from fastvmt_pl.backbones.model_folder import BUNDLED

VARIANTS = {
    "2B": ({"use_rotary_positional_embeddings": False}, 3.0),
    "5B": ({"use_rotary_positional_embeddings": True}, 1.0),
    "1.5": ({"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False}, 1.0),
}
"""What tells the members of the family apart: settings of the transformer, and the scheduler's shift."""


SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 32,
    "num_layers": 4,
    "sample_width": 12,
    "sample_height": 8,
    "sample_frames": 9,
}


def write_cogvideox(folder, variant, **changes):
    """Write a pipeline of CogVideoX's own classes with random weights and wan-tiny's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["wan-tiny"] / "tokenizer")
    settings, shift = VARIANTS[variant]
    transformer = CogVideoXTransformer3DModel(**(SIZES | settings | changes))
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7,
    )
    scheduler = CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=shift,
        timestep_spacing="trailing",
    )
    pipeline = CogVideoXPipeline(tokenizer, text_encoder, vae, transformer, scheduler)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session", params=VARIANTS)
def cogvideox(request, tmp_path_factory):
    """The folder of a tiny CogVideoX of each kind."""
    return write_cogvideox(tmp_path_factory.mktemp("cogvideox"), request.param)


@pytest.fixture(scope="session")
def cogvideox_5b(tmp_path_factory):
    return write_cogvideox(tmp_path_factory.mktemp("cogvideox"), "5B")


@pytest.fixture
def changed_cogvideox(tmp_path, cogvideox_5b):
    """Writes a CogVideoX whose transformer has other settings."""

    def write(**changes):
        return write_cogvideox(tmp_path / "changed", "5B", **changes)

    yield write
    shutil.rmtree(tmp_path / "changed", ignore_errors=True)


def write_ti2v(folder):
    """Write a pipeline of the classes of Wan 2.2 TI2V 5B with random weights and wan-tiny's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["wan-tiny"] / "tokenizer")
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
    )
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, 0.2, -0.1, 0.0],
        latents_std=[0.5, 0.6, 0.7, 0.8],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipeline = WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer, expand_timesteps=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def ti2v(tmp_path_factory):
    """The folder of a tiny Wan 2.2 TI2V."""
    return write_ti2v(tmp_path_factory.mktemp("ti2v"))


def write_i2v(folder):
    """Write a pipeline of the classes of Wan 2.1 I2V 14B with random weights and wan-tiny's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["wan-tiny"] / "tokenizer")
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=12,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
        image_dim=24,
        added_kv_proj_dim=32,
    )
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, 0.2, -0.1, 0.0],
        latents_std=[0.5, 0.6, 0.7, 0.8],
    )
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )
    image_encoder = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=28,
            patch_size=7,
        )
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = WanImageToVideoPipeline(tokenizer, text_encoder, vae, scheduler, processor, image_encoder, transformer)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def i2v(tmp_path_factory):
    """The folder of a tiny Wan 2.1 I2V."""
    return write_i2v(tmp_path_factory.mktemp("i2v"))


def write_a14b(folder, pipeline):
    """Write a pipeline of the classes of Wan 2.2 A14B, text or image to video, with two random transformers."""
    torch.manual_seed(0)
    takes_image = pipeline is WanImageToVideoPipeline
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["wan-tiny"] / "tokenizer")
    experts = [
        WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=12 if takes_image else 4,
            out_channels=4,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=3,
        )
        for _ in range(2)
    ]
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, 0.2, -0.1, 0.0],
        latents_std=[0.5, 0.6, 0.7, 0.8],
    )
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )
    made = pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=experts[0],
        transformer_2=experts[1],
        boundary_ratio=0.9 if takes_image else 0.875,
    )
    made.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def t2v_a14b(tmp_path_factory):
    """The folder of a tiny Wan 2.2 A14B, text to video."""
    return write_a14b(tmp_path_factory.mktemp("t2v_a14b"), WanPipeline)


@pytest.fixture(scope="session")
def i2v_a14b(tmp_path_factory):
    """The folder of a tiny Wan 2.2 A14B, image to video."""
    return write_a14b(tmp_path_factory.mktemp("i2v_a14b"), WanImageToVideoPipeline)
