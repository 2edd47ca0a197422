import pytest

from fastvmt_pl.clips.timeline import ScarceFramesError, Timeline

REGULAR = Timeline.regular(24, 12.0)


@pytest.mark.parametrize("num_frames", range(1, 25))
def test_regular_frames_are_spread_as_evenly_as_their_numbers(num_frames):
    indices, fps = REGULAR.choose(num_frames)
    distance = 23 / max(1, num_frames - 1)
    assert all(abs(index - number * distance) <= 0.501 for number, index in enumerate(indices))
    assert fps == pytest.approx(12 / distance if num_frames > 1 else 12)


def test_times_that_a_container_rounds_are_regular():
    """Matroska has milliseconds, and frames of 24 a second appear 41 or 42 of them apart."""
    times = [round(1000 * number / 24) / 1000 for number in range(1000)]
    rounded = Timeline(times, times[-1] + 0.042)
    assert rounded.period == pytest.approx(1 / 24, rel=1e-4)
    assert rounded.choose(1000)[0] == list(range(1000))
    assert rounded.choose(90, stride=11)[0] == list(range(0, 990, 11))


def test_a_frame_that_is_shown_longer_is_read_more_often():
    held = Timeline([0.0, 0.1, 0.2, 2.2, 2.3], 2.4)
    assert held.choose(5) == ([0, 2, 2, 2, 4], pytest.approx(4 / 2.3))
    assert held.choose(3, start=0.2)[0] == [2, 2, 4]


def test_a_last_frame_counts_as_long_as_it_is_shown():
    held = Timeline([0.0, 0.1, 0.2, 0.3], 3.0)
    assert held.choose(3)[0] == [0, 3, 3]


def test_a_burst_of_frames_among_long_ones_is_read():
    """As in a recording of a screen, or a GIF: seven frames 50 ms apart, then ten a second apart."""
    times = [0.05 * number for number in range(7)] + [1.3 + number for number in range(10)]
    burst = Timeline(times, times[-1] + 1)
    assert burst.period == pytest.approx(1.0)
    assert burst.choose(7, 0.0, 0.35) == (list(range(7)), pytest.approx(20.0))
    found, fps = burst.choose(11)
    shown = [max(frame for frame, time in enumerate(times) if time <= number / fps + 0.02) for number in range(11)]
    assert found == shown


def test_a_rate_sets_the_distance_of_frames():
    assert REGULAR.choose(4, 0.5, rate=4.0) == ([6, 9, 12, 15], 4.0)


@pytest.mark.parametrize(
    ("options", "available"),
    [({}, 24), ({"end": 1.0}, 12), ({"start": 1.5}, 6), ({"stride": 5}, 5), ({"rate": 1.0}, 2), ({"start": 9.0}, 0)],
)
def test_too_short_an_interval_gives_its_number_of_frames(options, available):
    with pytest.raises(ScarceFramesError) as error:
        REGULAR.choose(25, **options)
    assert error.value.available == available
    if available:
        assert len(REGULAR.choose(available, **options)[0]) == available
