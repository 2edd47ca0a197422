"""What an early exit brings is what hooks see in a whole pass, to the bit, and so are its gradients."""

from functools import partial

import pytest
import torch
from einops import rearrange

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.request import Request

TIMESTEP = torch.tensor([700.0, 300.0])


@pytest.fixture(scope="module")
def backbone():
    return DiffusersBackbone("wan-tiny")


@pytest.fixture
def latents(backbone):
    return torch.randn(2, *backbone.latent_shape(5, 32, 32), requires_grad=True)


@pytest.fixture
def condition(backbone):
    return backbone.embed_prompts(["a red circle on a gray background", ""])


def by_hooks(backbone, latents, condition, block):
    """What a whole pass makes: normed queries and keys and the output of a block, and the velocity."""
    kept, module = {}, backbone.transformer.blocks[block]
    parts = {"query": module.attn1.norm_q, "key": module.attn1.norm_k, "hidden": module}
    handles = [
        part.register_forward_hook(lambda m, i, output, name=name: kept.__setitem__(name, output))
        for name, part in parts.items()
    ]
    velocity = backbone.velocity(latents, TIMESTEP, condition)
    for handle in handles:
        handle.remove()
    frames, heads = latents.shape[2], module.attn1.heads
    split = partial(rearrange, pattern="b (f s) (h d) -> b f s h d", f=frames, h=heads)
    return split(kept["query"]), split(kept["key"]), kept["hidden"].unflatten(1, (frames, -1)), velocity


def gradient(output, latents):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad((output * weights).sum(), latents, retain_graph=True)[0]


def everything(blocks, **settings):
    return Request(frozenset(blocks), frozenset(blocks), frozenset(blocks), **settings)


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("blocks", [[0], [1, 3], [5]], ids=str)
def test_a_capture_is_what_hooks_see_in_a_whole_pass(backbone, latents, condition, blocks, checkpointing, velocity):
    expected = {block: by_hooks(backbone, latents, condition, block) for block in blocks}
    if checkpointing:
        backbone.transformer.enable_gradient_checkpointing()
    try:
        found = backbone.capture(latents, TIMESTEP, condition, everything(blocks, velocity=velocity))
        for block, (query, key, hidden, predicted) in expected.items():
            pairs = [(found.unrotated_query[block], query), (found.unrotated_key[block], key)]
            pairs += [(found.hidden[block], hidden), *([(found.velocity, predicted)] if velocity else [])]
            for ours, theirs in pairs:
                assert torch.equal(ours, theirs)
                torch.testing.assert_close(gradient(ours, latents), gradient(theirs, latents), rtol=1e-4, atol=1e-7)
    finally:
        backbone.transformer.disable_gradient_checkpointing()
    assert velocity or found.velocity is None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("blocks", [[0], [1, 3], [5]], ids=str)
def test_a_pass_to_denoise_with_has_the_gradients_of_a_partial_one_and_a_plain_velocity(
    backbone, latents, condition, blocks, checkpointing
):
    last = max(blocks)
    part = backbone.capture(latents, TIMESTEP, condition, everything(blocks))
    plain = backbone.velocity(latents, TIMESTEP, condition)
    if checkpointing:
        backbone.transformer.enable_gradient_checkpointing()
    try:
        found = backbone.capture(latents, TIMESTEP, condition, everything(blocks, denoising=True))
        assert torch.equal(found.velocity, plain)
        assert not found.velocity.requires_grad
        for name in ("query", "key", "unrotated_query", "hidden"):
            ours, theirs = getattr(found, name)[last], getattr(part, name)[last]
            assert torch.equal(ours, theirs)
            assert torch.equal(gradient(ours, latents), gradient(theirs, latents))
    finally:
        backbone.transformer.disable_gradient_checkpointing()


def test_behind_the_last_block_a_pass_to_denoise_with_keeps_nothing(backbone, latents, condition):
    graphs = []
    handles = [
        block.register_forward_hook(lambda module, args, output: graphs.append(output.requires_grad))
        for block in backbone.transformer.blocks
    ]
    backbone.capture(latents, TIMESTEP, condition, Request(query_key=frozenset({2}), denoising=True))
    for handle in handles:
        handle.remove()
    assert graphs == [True, True, True, False, False, False]


def test_what_is_asked_for_alone_is_what_comes_with_all_else(backbone, latents, condition):
    whole = backbone.capture(latents, TIMESTEP, condition, everything([1, 3], velocity=True))
    for name, request in {
        "query": Request(query_key=frozenset({1, 3})),
        "key": Request(query_key=frozenset({3})),
        "unrotated_query": Request(unrotated=frozenset({1})),
        "unrotated_key": Request(unrotated=frozenset({1, 3})),
        "hidden": Request(hidden=frozenset({3})),
    }.items():
        found = getattr(backbone.capture(latents, TIMESTEP, condition, request), name)
        assert found.keys() == request.blocks
        assert all(torch.equal(tensor, getattr(whole, name)[block]) for block, tensor in found.items())


@pytest.mark.parametrize(
    ("request_", "runs"),
    [
        (Request(query_key=frozenset({2})), []),
        (Request(unrotated=frozenset({2})), []),
        (Request(hidden=frozenset({1}), query_key=frozenset({2})), []),
        (Request(hidden=frozenset({2})), ["to_v", "attn2", "ffn"]),
    ],
    ids=str,
)
def test_nothing_runs_after_the_last_thing_asked_for(backbone, latents, condition, request_, runs):
    ran, block = [], backbone.transformer.blocks[2]
    watched = {"attn2": block.attn2, "ffn": block.ffn, "next": backbone.transformer.blocks[3]}
    watched |= {"to_out": block.attn1.to_out[0]} if not runs else {}
    handles = [part.register_forward_hook(lambda m, i, o, n=name: ran.append(n)) for name, part in watched.items()]
    backbone.capture(latents, TIMESTEP, condition, request_)
    for handle in handles:
        handle.remove()
    assert ran == [name for name in runs if name in watched]


def state(transformer):
    """All that a capture may touch, to be found as it was."""
    block = transformer.blocks[2]
    return [
        {name: value for name, value in vars(part).items() if name != "_forward_hooks"}
        | {"hooks": len(part._forward_hooks)}
        for part in (transformer, block, block.attn1)
    ] + [dict(vars(block.attn1.processor))]


@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_as_it_was_afterwards(backbone, latents, condition, failing, monkeypatch):
    if failing:
        monkeypatch.setattr(backbone.transformer.blocks[1], "forward", lambda *args: 1 / 0)
    before = state(backbone.transformer)
    try:
        backbone.capture(latents, TIMESTEP, condition, everything([2]))
    except ZeroDivisionError:
        assert failing
    assert state(backbone.transformer) == before


def test_without_gradient_nothing_is_kept_for_a_backward_pass(backbone, latents, condition):
    found = backbone.capture(latents, TIMESTEP, condition, everything([1], velocity=True, gradient=False))
    assert not found.velocity.requires_grad
    assert not found.query[1].requires_grad


def test_a_block_that_is_not_there_is_refused(backbone, latents, condition):
    with pytest.raises(ValueError, match="6"):
        backbone.capture(latents, TIMESTEP, condition, Request(hidden=frozenset({6})))


@pytest.mark.parametrize("settings", [{"attention_backend": "_native_math"}, {"compile": True}], ids=str)
def test_other_kernels_and_compiled_code_bring_the_same(backbone, latents, condition, settings):
    request = everything([1, 3], denoising=True)
    whole = backbone.capture(latents, TIMESTEP, condition, request)
    other = DiffusersBackbone("wan-tiny", **settings)
    with torch.compiler.set_stance(force_backend="aot_eager"):
        found = other.capture(latents, TIMESTEP, condition, request)
        torch.testing.assert_close(found.query[3], whole.query[3], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.velocity, whole.velocity, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.velocity(latents, TIMESTEP, condition), whole.velocity, rtol=1e-4, atol=1e-4)


def test_the_clean_latents_follow_from_the_velocity(backbone, latents, condition):
    found = backbone.capture(latents, TIMESTEP, condition, Request(velocity=True))
    assert torch.equal(found.velocity, backbone.velocity(latents, TIMESTEP, condition))
    noise = found.clean + found.velocity
    sigma = TIMESTEP.view(-1, 1, 1, 1, 1) / 1000
    torch.testing.assert_close((1 - sigma) * found.clean + sigma * noise, latents)


def test_requests_join(backbone):
    joined = Request(frozenset({1}), gradient=False) | Request(hidden=frozenset({2}), velocity=True, denoising=True)
    assert joined == Request(frozenset({1}), hidden=frozenset({2}), velocity=True, denoising=True, gradient=True)
    assert joined.blocks == {1, 2}
