import json
import shutil

import pytest

from fastvmt_pl.backbones.families.finding import family_of
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.errors import UserError
from fastvmt_pl.runs.options import CONFIGS, default_config, default_lora_config, default_prompts


@pytest.fixture
def folder(tmp_path):
    """A copy of wan-tiny's configs."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(BUNDLED["wan-tiny"], tmp_path / "model", ignore=ignored)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_fine_tune_of_a_bundled_model_has_its_defaults(folder):
    assert family_of(folder).defaults == family_of("wan-tiny").defaults
    assert (family_of("wan-tiny").defaults.fps, family_of("wan-tiny").defaults.negative_prompt) == (8, "")


def test_another_member_of_the_family_has_its_own(folder):
    change(folder / "transformer" / "config.json", num_layers=30, num_attention_heads=12, attention_head_dim=128)
    defaults = family_of(folder).defaults
    assert defaults.fps == 16
    assert "overexposed" in defaults.negative_prompt
    assert defaults.teacher_batch_size == 1


def test_a_model_of_no_known_family_is_refused(folder):
    change(folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(UserError, match="FluxPipeline"):
        family_of(folder)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ("cogvideox/2b.yaml", {"num_layers": 30, "num_attention_heads": 30}),
        ("cogvideox/5b.yaml", {"num_layers": 42, "num_attention_heads": 48}),
        ("cogvideox/1.5-5b.yaml", {"num_layers": 42, "num_attention_heads": 48, "patch_size_t": 2}),
    ],
)
def test_the_config_of_a_full_size_cogvideox_is_found(cogvideox_5b, tmp_path, config, sizes):
    folder = shutil.copytree(cogvideox_5b, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    change(folder / "transformer" / "config.json", attention_head_dim=64, **sizes)
    assert default_config(str(folder)) == CONFIGS / config
    assert default_config(str(folder)).is_file()
    assert default_lora_config(str(folder)).is_file()
    assert default_prompts(str(folder)).is_file()


def test_a_model_that_no_config_fits_is_refused_by_what_it_is(cogvideox_5b):
    with pytest.raises(UserError, match="CogVideoXPipeline of 4 layers 32 wide"):
        default_config(str(cogvideox_5b))
