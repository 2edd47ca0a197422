import pytest

from fastvmt_pl.distillation.shard_index import Shard, read_index, write_index


def test_an_index_is_read_as_it_was_written(tmp_path):
    shards = [Shard("a.tar", "samples", 3, 1), Shard("clip.tar", "clip", 1, sha256="abc")]
    write_index(tmp_path, shards)
    assert read_index(tmp_path) == shards


@pytest.mark.parametrize("content", [None, "", "{}", '{"shards": [{"file": "a"}]}', '{"shards": 3}'])
def test_a_folder_without_an_index_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match="fastvmt distill"):
        read_index(tmp_path)
