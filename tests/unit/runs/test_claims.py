import pytest

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.locks import InUseError, locked
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.identity import identity_of


def test_a_folder_that_a_killed_process_had_begun_is_taken_over(tmp_path):
    (tmp_path / "run" / ".writing-x").mkdir(parents=True)
    with claimed_folder(tmp_path / "run", config="a: 1"):
        assert (tmp_path / "run" / "config.yaml").read_text() == "a: 1"
    with pytest.raises(ValueError, match="other settings"), claimed_folder(tmp_path / "run", config="a: 2"):
        pytest.fail("it was claimed")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run"), claimed_folder(tmp_path, config="a: 1"):
        pytest.fail("it was claimed")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_settings_that_were_renamed_are_the_same_run(tmp_path):
    def claim(batch_size):
        config = f"teacher_batch_size: {batch_size}"
        return claimed_folder(tmp_path / "run", lambda files: files["config"], config=config)

    with claim(8):
        pass
    identity = tmp_path / "run" / "identity.json"
    identity.write_text(identity.read_text().replace("teacher_batch_size", "teacher_batch"))
    with claim(8):
        pass
    with pytest.raises(UserError, match="teacher_batch_size"), claim(4):
        pytest.fail("it was claimed")


def test_a_process_waits_as_long_as_it_is_told(tmp_path):
    with locked(tmp_path), pytest.raises(InUseError, match="another process is using"), locked(tmp_path, patience=0.1):
        pytest.fail("two processes have it")
    with locked(tmp_path, patience=0.1):
        pass


def test_a_class_that_was_renamed_is_the_same_run(tmp_path):
    def claim(folder, name):
        config = f"model: {{backbone: {{class_path: fastvmt_pl.backbones.{name}}}}}"
        return claimed_folder(folder, lambda files: identity_of(files["config"]), config=config)

    with claim(tmp_path / "run", "DiffusersBackbone"):
        pass
    identity = tmp_path / "run" / "identity.json"
    identity.write_text(identity.read_text().replace("DiffusersBackbone", "WanBackbone"))
    with claim(tmp_path / "run", "DiffusersBackbone"):
        pass
    with pytest.raises(UserError, match="OtherBackbone"), claim(tmp_path / "run", "OtherBackbone"):
        pytest.fail("it was claimed")
