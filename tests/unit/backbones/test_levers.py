"""Memory levers change where and how a model computes, and not what."""

import pytest
import torch

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.processes.peak_memory import PeakMemory

PROMPTS = ["a red circle on a gray background", ""]
SIZE = (5, 32, 32)


@pytest.fixture(scope="module")
def plain():
    return DiffusersBackbone()


@pytest.fixture
def latents(plain):
    return torch.randn(2, *plain.latent_shape(*SIZE))


@pytest.fixture
def check_predictions(plain, latents):
    """Compares what a backbone predicts, and the gradients that guidance and distillation take, with a plain one's."""

    def predictions(backbone):
        text, timestep = backbone.embed_prompts(PROMPTS), torch.tensor([700.0, 300.0])
        noisy = latents.clone().requires_grad_()
        query, key = backbone.query_key(noisy, timestep, text, 2)
        velocity = backbone.velocity(noisy, timestep, text)
        gradients = [
            torch.autograd.grad(loss, noisy)[0]
            for loss in (query.pow(2).sum() + key.pow(3).sum(), velocity.pow(2).sum())
        ]
        return [query, key, velocity, *gradients]

    def check(backbone):
        for found, expected in zip(predictions(backbone), predictions(plain), strict=True):
            assert (found - expected).norm() <= 1e-5 * expected.norm()

    return check


@pytest.mark.parametrize(
    "lever",
    [{"gradient_checkpointing": True}, {"attention_backend": "_native_math"}, {"attention_backend": "_native_flash"}],
    ids=str,
)
def test_a_lever_of_the_transformer_changes_no_prediction_and_no_gradient(check_predictions, lever):
    backbone = DiffusersBackbone(**lever)
    check_predictions(backbone)
    assert backbone.fingerprint() == DiffusersBackbone().fingerprint()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_change_no_prediction_and_no_gradient(check_predictions, checkpointing):
    """All of compilation but the machine code at its end, which takes a minute."""
    backbone = DiffusersBackbone(compile=True, gradient_checkpointing=checkpointing)
    with torch.compiler.set_stance(force_backend="aot_eager"):
        check_predictions(backbone)


@pytest.mark.slow
def test_machine_code_changes_no_prediction_and_no_gradient(check_predictions):
    check_predictions(DiffusersBackbone(compile=True))


def test_blocks_are_compiled_once_more_for_all_lengths_of_prompts(plain, latents):
    backbone, counters = DiffusersBackbone(compile=True), torch._dynamo.utils.counters
    counters.clear()
    with torch.no_grad(), torch.compiler.set_stance(force_backend="eager"):
        for prompt, jobs in (
            ("a red circle", [0, 1]),
            ("a blue cross on a gray background", [1, 0, 1]),
            ("", [0, 0, 1]),
        ):
            text = plain.embed_prompts([prompt] * len(jobs))
            found, expected = (one.velocity(latents[jobs], 500.0, text) for one in (backbone, plain))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2


def test_tiles_decode_what_the_whole_decodes_but_for_their_seams(plain, latents, toy_clips):
    tiled, wide = (
        DiffusersBackbone(vae_tiling=True),
        plain.encode(toy_clips[0].to_video((32, 272))),
    )  # a tile has 256 pixels
    assert torch.equal(tiled.decode(latents), plain.decode(latents))  # one tile holds it
    difference = tiled.decode(wide) - plain.decode(wide)
    assert 0 < difference.square().mean().sqrt() < 0.002  # of -1 to 1
    assert tiled.fingerprint() != plain.fingerprint()


def test_several_videos_take_the_memory_of_one(plain, latents):
    peaks = []
    for some in (latents[:1], latents):
        plain.decode(some)  # what it allocates once
        with PeakMemory("cpu") as peak:
            decoded = plain.decode(some)
        peaks.append(peak.num_bytes)
    assert torch.equal(decoded, torch.cat([plain.decode(one) for one in latents.split(1)]))
    assert torch.equal(plain.encode(decoded), torch.cat([plain.encode(one) for one in decoded.split(1)]))
    assert peaks[1] < 1.5 * peaks[0]


@pytest.fixture
def moves(monkeypatch):
    """Which parts of a model were asked to move where; the device they compute on is called ``cpu:0`` here."""
    asked, move = [], torch.nn.Module.to

    def watched(self, *args, **kwargs):
        asked.extend((type(self).__name__, str(arg)) for arg in args if isinstance(arg, torch.device))
        return move(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", watched)
    return asked


def test_idle_parts_are_offloaded_and_compute_the_same(plain, latents, moves):
    text, decoded = plain.embed_prompts(PROMPTS).tensors["text"], plain.decode(latents)
    encoded = plain.encode(decoded)
    backbone = DiffusersBackbone(offload=True).to("cpu:0")
    backbone.load_weights()
    moves.clear()
    assert torch.equal(backbone.embed_prompts(PROMPTS).tensors["text"], text)
    backbone.release_text_encoder()
    encoder = backbone.text_pipeline.text_encoder
    backbone.embed_prompts(["a new prompt"])
    assert backbone.text_pipeline.text_encoder is encoder  # it was not read from disk again
    work = [(type(encoder).__name__, place) for place in ("cpu:0", "cpu")]
    assert [move for move in moves if move[0] == work[0][0]][-4:] == 2 * work
    moves.clear()
    assert torch.equal(backbone.decode(latents), decoded)
    assert torch.equal(backbone.encode(decoded), encoded)
    assert moves == 2 * [("AutoencoderKLWan", "cpu:0"), ("AutoencoderKLWan", "cpu")]


def test_a_part_that_fails_at_work_is_offloaded_all_the_same(moves):
    backbone = DiffusersBackbone(offload=True).to("cpu:0")
    with pytest.raises(RuntimeError):
        backbone.decode(torch.zeros(1, 3, 2, 4, 4))
    assert moves[-1] == ("AutoencoderKLWan", "cpu")


@pytest.mark.gpu
def test_idle_parts_leave_the_gpu(plain, latents):
    backbone = DiffusersBackbone(offload=True).to("cuda")
    text = backbone.embed_prompts(PROMPTS).tensors["text"]
    decoded = backbone.decode(latents)
    assert text.device.type == decoded.device.type == "cuda"
    for part in (backbone.vae, backbone.text_pipeline.text_encoder):
        assert {weight.device.type for weight in part.parameters()} == {"cpu"}
    assert {weight.device.type for weight in backbone.transformer.parameters()} == {"cuda"}
    torch.testing.assert_close(text.cpu(), plain.embed_prompts(PROMPTS).tensors["text"], rtol=1e-3, atol=1e-3)
    assert (decoded.cpu() - plain.decode(latents)).abs().max() < 0.05


def test_small_steps_of_latents_survive_the_low_precision_of_weights(latents):
    """Most of the latents are at least 0.25, where the next number in bfloat16 is 1e-3 away, and a step is 1e-4."""
    backbone = DiffusersBackbone(dtype="bfloat16")
    text, moving = backbone.embed_prompts(PROMPTS), torch.nn.Parameter(latents.clone())
    optimizer = torch.optim.AdamW([moving], lr=1e-4, weight_decay=0.0)
    for _ in range(2):
        query, _ = backbone.query_key(moving, 500.0, text, 2)
        optimizer.zero_grad()
        query.float().pow(2).sum().backward()
        optimizer.step()
    steps, rounded = (abs(moving.to(dtype) - latents.to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert moving.dtype == torch.float32
    assert steps.median() > 1.5e-4
    assert rounded.median() == 0  # what bfloat16 latents would keep of them
    assert backbone.velocity(moving.detach(), 500.0, text).dtype == torch.float32
