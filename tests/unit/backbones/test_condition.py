import pytest
import torch

from fastvmt_pl.backbones.condition import Condition


@pytest.fixture
def condition():
    text = torch.zeros(3, 6, 4)
    for row, length in enumerate((2, 5, 1)):
        text[row, :length] = row + 1.0
    return Condition({"text": text, "pooled": torch.arange(6.0).view(3, 2)})


def same(one, other):
    assert one.tensors.keys() == other.tensors.keys()
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_rows_split_and_join(condition):
    assert len(condition) == 3
    assert same(Condition.cat([condition[:1], condition[[1, 2]]]), condition)
    assert condition[[0, 1, 2]] is condition  # a family may know facts of its tensors
    assert same(condition[1:2].expand(2), Condition.cat([condition[[1]], condition[[1]]]))


def test_rows_are_replaced_where_they_are_not_kept(condition):
    found = condition.where(torch.tensor([True, False, True]), condition[[2]])
    assert same(found, condition[[0, 2, 2]])


def test_padding_is_dropped_to_save_a_row_and_comes_back(condition):
    rows = [condition[[row]].compact() for row in range(3)]
    assert [len(row["text"]) for row in rows] == [2, 5, 1]
    assert same(Condition.stack(rows, like=condition), condition)


@pytest.mark.parametrize(
    ("row", "number"),
    [
        ({"text": torch.ones(6, 4), "pooled": torch.ones(2)}, 0),
        ({"text": torch.ones(7, 4), "pooled": torch.ones(2)}, 1),
        ({"text": torch.ones(2, 5), "pooled": torch.ones(3)}, 2),
        ({"text": torch.ones(2, 4)}, 1),
    ],
)
def test_a_row_of_another_model_is_told(condition, row, number):
    assert len(condition.misfits(row)) == number
