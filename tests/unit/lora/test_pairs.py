import pytest
import torch
from safetensors.torch import save_file

from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import DIFFUSERS_FILE, HALVES, all_files, find_loras, find_pair, half_file

NAMES = [
    ("panda_high_noise", "panda_low_noise"),
    ("high_noise_model", "low_noise_model"),
    ("Panda-HighNoise-v2", "Panda-LowNoise-v2"),
    ("panda-HIGH-NOISE", "panda-LOW-NOISE"),
]


@pytest.fixture
def write(tmp_path):
    """Writes LoRA files, which hold nothing to speak of."""

    def written(*names, **header):
        paths = [tmp_path / (name if "." in name else f"{name}.safetensors") for name in names]
        for path in paths:
            save_file({"x": torch.zeros(1)}, path, header or None)
        return paths

    return written


@pytest.mark.parametrize("names", NAMES)
def test_either_half_stands_for_both(write, names):
    high, low = write(*names)
    for path in (high, low):
        assert find_loras({str(path): 2.0}, HALVES) == ({high: 2.0}, {low: 2.0})
        assert all_files(path) == sorted([high, low])


def test_a_folder_stands_for_the_halves_in_it(write, tmp_path):
    high, low = write(*(half_file(DIFFUSERS_FILE, half) for half in HALVES))
    assert find_pair(tmp_path) == {"high_noise": high, "low_noise": low}
    assert all_files(tmp_path) == [high, low]


def test_a_pair_is_refused_for_a_model_with_one_transformer(write, tmp_path):
    write(*(half_file(DIFFUSERS_FILE, half) for half in HALVES))
    with pytest.raises(UserError, match="pair"):
        find_loras({str(tmp_path): 1.0})


def test_halves_that_are_both_given_have_a_weight_each(write, tmp_path):
    high, low = write(*(half_file(DIFFUSERS_FILE, half) for half in HALVES))
    assert find_loras({str(high): 0.5, str(low): 0.25}, HALVES) == ({high: 0.5}, {low: 0.25})
    assert find_loras({str(high): 0.5, str(tmp_path): 1.0}, HALVES) == ({high: 1.5}, {low: 1.5})


@pytest.mark.parametrize("there", [0, 1])
@pytest.mark.parametrize("names", NAMES)
def test_half_a_pair_is_refused_by_the_name_of_the_other(write, names, there):
    (path,) = write(names[there])
    with pytest.raises(UserError, match=names[1 - there]):
        find_pair(path)


def test_a_file_that_was_trained_alone_says_so(write):
    (path,) = write("panda_low_noise", trained_expert="low_noise")
    assert find_loras({str(path): 1.0}, HALVES) == ({}, {path: 1.0})
    (path,) = write("panda_low_noise", trained_expert="high_noise")  # renamed
    with pytest.raises(UserError, match="panda_high_noise"):
        find_pair(path)


def test_what_is_no_pair_is_refused_by_its_name(write, tmp_path):
    (path,) = write("panda")
    for given in (path, tmp_path, tmp_path / "none_high_noise.safetensors"):
        with pytest.raises(UserError, match=str(given)):
            find_pair(given)


def test_one_transformer_takes_any_file_as_it_is(write, tmp_path):
    plain, high, _ = write("panda", "panda_high_noise", "panda_low_noise")
    assert find_loras({str(plain): 1.0, str(high): 0.5}) == ({plain: 1.0, high: 0.5},)
    assert all_files(plain) == [plain]
    with pytest.raises(UserError, match="nan"):
        find_loras({str(plain): float("nan")})
