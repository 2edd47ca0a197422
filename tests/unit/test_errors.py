import pytest

from fastvmt_pl.clips import TooShortError
from fastvmt_pl.errors import UserError, blaming_settings, one_line


def test_a_setting_is_blamed_and_an_error_of_the_users_stays_what_it_is():
    with pytest.raises(UserError, match="lr"), blaming_settings():
        raise ValueError("lr")
    with pytest.raises(TooShortError) as caught, blaming_settings():
        raise TooShortError("clip", 9)
    assert caught.value.num_frames == 9


def test_an_unknown_setting_is_named_with_its_group():
    said = one_line("Group 'model' does not accept option 'num_stepz'")
    assert "model" in said
    assert "'num_stepz'" in said
