import json

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.clip_similarity import ClipEmbedder, ClipFrameSimilarity, ClipTextSimilarity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of the real classes, small and random."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={**size, "vocab_size": len(tokens), "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_frames_are_compared_with_the_prompt_and_with_each_other(folder):
    embedder = ClipEmbedder(str(folder))
    video = torch.randint(0, 256, (3, 40, 48, 3), dtype=torch.uint8)
    pictures, text = embedder.pictures(video), embedder.text("a dog")
    assert pictures.shape == (3, 8)
    assert text.shape == (1, 8)
    wanted = sum(float(cosine_similarity(picture[None], text)) for picture in pictures) / 3
    assert float(ClipTextSimilarity(embedder)(video, "a dog")) == pytest.approx(wanted, abs=1e-6)
    wanted = sum(float(cosine_similarity(pictures[n : n + 1], pictures[n + 1 : n + 2])) for n in range(2)) / 2
    assert float(ClipFrameSimilarity(embedder)(video)) == pytest.approx(wanted, abs=1e-6)
    assert float(ClipFrameSimilarity(embedder)(video[:1].expand(3, -1, -1, -1))) == pytest.approx(1.0, abs=1e-5)


def test_a_long_prompt_is_cut_and_no_model_is_an_error(folder, tmp_path):
    embedder = ClipEmbedder(str(folder))
    assert embedder.text("word " * 200).isfinite().all()
    with pytest.raises(UserError, match="nothing"):
        ClipEmbedder(str(tmp_path / "nothing"))
