import json
import shutil

import pytest
import torch
from diffusers import WanPipeline
from einops import rearrange
from torch.utils._python_dispatch import TorchDispatchMode

from fastvmt_pl.backbones import Backbone, DiffusersBackbone
from fastvmt_pl.backbones import model_folder as folder
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.sampling import denoise


@pytest.fixture(scope="module")
def backbone():
    return DiffusersBackbone("wan-tiny")


@pytest.fixture
def inputs(backbone):
    latents = torch.randn(2, *backbone.latent_shape(5, 48, 48), requires_grad=True)
    return latents, torch.tensor([700.0, 300.0]), backbone.embed_prompts(["a red circle on a gray background", ""])


def test_rotation_is_the_models_own(backbone, inputs):
    """The rotated queries and keys give the attention weights that stock attention computes."""
    latents, timestep, condition = inputs[0][:1].detach(), inputs[1][:1], inputs[2][:1]
    attention = backbone.transformer.blocks[1].attn1
    seen = []
    handle = attention.to_out[0].register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    values = []
    other = attention.to_v.register_forward_hook(lambda m, i, o: values.append(o))
    with torch.no_grad():
        backbone.velocity(latents, timestep, condition)
        handle.remove()
        other.remove()
        query, key = (
            rearrange(x, "b f s h d -> b h (f s) d") for x in backbone.query_key(latents, timestep, condition, 1)
        )
    value = rearrange(values[0], "b n (h d) -> b h n d", h=attention.heads)
    mixed = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
    torch.testing.assert_close(rearrange(mixed, "b h n d -> b n (h d)"), seen[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("replaced", ["attention processor", "block"])
def test_a_pass_that_ends_without_queries_and_keys_names_the_block(backbone, inputs, monkeypatch, replaced):
    block = backbone.transformer.blocks[3]
    if replaced == "block":
        monkeypatch.setattr(block, "forward", lambda hidden, *args: hidden)
    else:
        monkeypatch.setattr(block.attn1, "processor", lambda attention, hidden, *args: hidden)
    with pytest.raises(RuntimeError, match="block 3"):
        backbone.query_key(*inputs, block=3)


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors; each has to wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_pass_after_the_first_reads_a_number_from_a_tensor(backbone, inputs):
    latents, _, text = inputs
    with Reads() as first:
        backbone.velocity(latents, 700.0, text)
    with Reads() as later:
        backbone.velocity(latents, 500.0, text)
        backbone.query_key(latents, 500.0, text, 2)
        denoise(latents, latents, torch.tensor([0.5, 0.0]), 0)
    assert (first.count, later.count) == (1, 0)


def test_timesteps_can_be_batched(backbone, inputs):
    latents, timestep, text = inputs
    together = backbone.query_key(latents, timestep, text, 3)
    for job in range(2):
        alone = backbone.query_key(latents[job : job + 1], float(timestep[job]), text[job : job + 1], 3)
        torch.testing.assert_close(together[0][job : job + 1], alone[0], rtol=1e-4, atol=1e-4)


def test_velocity_is_the_stock_pipelines(backbone):
    """One step of the stock pipeline from given latents, without guidance, shows the velocity that it used."""
    pipeline = WanPipeline.from_pretrained(BUNDLED["wan-tiny"])
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(1, *backbone.latent_shape(5, 48, 48))
    prompt = "a red circle on a gray background"
    options = {"height": 48, "width": 48, "num_frames": 5, "num_inference_steps": 1, "guidance_scale": 1.0}
    end = pipeline(prompt, latents=latents.clone(), output_type="latent", **options).frames
    ours = latents - backbone.velocity(latents, 1000.0, backbone.embed_prompts([prompt]))
    torch.testing.assert_close(ours, end, rtol=1e-4, atol=1e-4)


def test_encoding_and_decoding_keeps_a_clip(backbone, toy_clips):
    video = toy_clips[0].to_video((48, 48))
    latents = backbone.encode(video)
    assert latents.shape[1:] == backbone.latent_shape(5, 48, 48)
    assert (backbone.decode(latents) - video).pow(2).mean() < 0.01


def test_bfloat16_weights_take_float32_latents(inputs):
    backbone = DiffusersBackbone("wan-tiny", dtype="bfloat16")
    latents, timestep, text = inputs
    query, _ = backbone.query_key(latents, timestep, text, 2)
    query.float().sum().backward()
    assert query.dtype == torch.bfloat16
    assert latents.grad.dtype == torch.float32
    assert backbone.velocity(latents, timestep, text).dtype == torch.float32


def test_prompts_are_embedded_once_and_the_text_encoder_is_released():
    backbone = DiffusersBackbone("wan-tiny")
    first = backbone.embed_prompts(["a blue cross on a navy background"])
    backbone.release_text_encoder()
    assert "text_pipeline" not in vars(backbone)
    again = backbone.embed_prompts(["a blue cross on a navy background"])
    assert torch.equal(again.tensors["text"], first.tensors["text"])
    assert "text_pipeline" not in vars(backbone)


def test_it_is_a_frozen_backbone(backbone):
    assert isinstance(backbone, Backbone)
    assert not any(p.requires_grad for p in [*backbone.transformer.parameters(), *backbone.vae.parameters()])
    assert len(backbone.fingerprint()) == 16
    assert backbone.fingerprint() != DiffusersBackbone("wan-tiny", dtype="bfloat16").fingerprint()


@pytest.mark.parametrize("missing", ["velocity", "capture", "load_weights"])
def test_a_backbone_with_a_method_missing_cannot_be_made(missing):
    methods = {name: lambda self, *args: None for name in Backbone.__abstractmethods__ - {missing}}
    with pytest.raises(TypeError, match=missing):
        type("Model", (Backbone,), methods)()


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ((16, 48, 48), "example 17"),
        ((1, 48, 48), "example 5"),
        ((17, 50, 48), "height.*48"),
        ((17, 48, 8), "width.*16"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused_with_one_that_can(backbone, geometry, message):
    with pytest.raises(ValueError, match=message):
        backbone.check_geometry(*geometry)
    backbone.check_geometry(17, 64, 96)


def test_a_block_that_is_not_there_is_refused(backbone):
    with pytest.raises(ValueError, match="0 to 5"):
        backbone.check_block(6)


@pytest.fixture
def copied(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["wan-tiny"], folder)
    return folder


def test_a_copy_of_the_folder_loads(copied):
    assert DiffusersBackbone(str(copied)).num_blocks == 6


def test_every_byte_of_weights_and_configs_is_in_the_fingerprint(copied):
    backbone = DiffusersBackbone(str(copied))
    found = {backbone.fingerprint()}
    places = [(path, 5) for path in copied.rglob("*/*.json") if path.parent.name != "scheduler"]
    for path in copied.rglob("*.safetensors"):
        header = int.from_bytes(path.read_bytes()[:8], "little")
        layout = json.loads(path.read_bytes()[8 : 8 + header])
        starts = sorted(tensor["data_offsets"][0] for name, tensor in layout.items() if name != "__metadata__")
        places += [(path, 8 + header + start) for start in starts[::12]]
    for path, position in places:
        content = path.read_bytes()
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        found.add(backbone.fingerprint())
        path.write_bytes(content)
    assert len(found) == len(places) + 1 > 20


def test_every_byte_of_a_lora_and_its_weight_are_in_the_fingerprint(tmp_path, write_lora):
    path = write_lora(tmp_path / "lora.safetensors")
    content, found = path.read_bytes(), {DiffusersBackbone().fingerprint()}
    for position, weight in ((-2000, 1.0), (-1000, 1.0), (-1, 1.0), (-1, 0.5)):  # all in the weights
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        found.add(DiffusersBackbone(loras={str(path): weight}).fingerprint())
    assert len(found) == 5


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder", "some-org/no-such-model", ""])
def test_an_unknown_model_is_refused(name):
    with pytest.raises(ValueError, match="wan-tiny"):
        DiffusersBackbone(name)


def test_a_hub_models_weights_are_fetched_when_they_are_used(tmp_path, monkeypatch):
    """The hub is the one part that no test can reach: a copy of the bundled model stands in for it."""

    def fetch(model, revision, allow_patterns):
        assert (model, revision) == ("some-org/a-wan", "main")
        left_out = [p for p in ("*.json", "*.safetensors") if p not in allow_patterns]
        shutil.copytree(BUNDLED["wan-tiny"], tmp_path, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)
        return str(tmp_path)

    monkeypatch.setattr(folder, "snapshot_download", fetch)
    backbone = DiffusersBackbone("some-org/a-wan", revision="main")
    backbone.check_geometry(17, 48, 48)
    backbone.check_block(5)
    assert list(tmp_path.rglob("*.json"))
    assert not list(tmp_path.rglob("*.safetensors"))
    assert backbone.fingerprint() == DiffusersBackbone("wan-tiny").fingerprint()


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_folder_without_safetensors_is_refused(copied, part):
    for path in (copied / part).glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"safetensors"):
        DiffusersBackbone(str(copied))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "FluxPipeline"),
        ("transformer", ["diffusers", "FluxTransformer2DModel"]),
        ("boundary_ratio", 0.9),
    ],
)
def test_an_unsupported_class_is_refused(copied, key, value):
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps(index | {key: value}))
    with pytest.raises(ValueError, match=r"support|Wan 2\.1"):
        DiffusersBackbone(str(copied))


@pytest.mark.parametrize("name", ["model_index.json", "transformer/config.json", "vae/config.json"])
def test_a_damaged_config_is_named(copied, name):
    (copied / name).write_text("{")
    with pytest.raises(ValueError, match=name):
        DiffusersBackbone(str(copied))


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder"])
def test_a_model_without_a_component_is_refused(copied, name):
    shutil.rmtree(copied / name)
    with pytest.raises(UserError, match=name):
        DiffusersBackbone(str(copied))


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("content", [None, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"])
def test_weights_of_which_a_part_is_missing_are_refused_before_they_are_read(copied, name, content):
    (path,) = (copied / name).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    for use in (lambda backbone: backbone.transformer, lambda backbone: backbone.fingerprint()):
        with pytest.raises(UserError, match=path.name):
            use(DiffusersBackbone(str(copied)))


def test_a_missing_shard_of_weights_is_refused_by_name(copied):
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (copied / "vae" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="model-00001-of-00002"):
        DiffusersBackbone(str(copied)).fingerprint()


@pytest.mark.parametrize("video", [(17, 48, 48), (5, 64, 32)])
def test_the_shape_of_latents_tells_that_of_the_video(backbone, video):
    assert backbone.video_shape(backbone.latent_shape(*video)) == video
