import torch
from torch.nn.functional import conv3d, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from fastvmt_pl.backbones.untrained import FAKE
from fastvmt_pl.planning.meter import TensorMeter
from fastvmt_pl.processes.peak_memory import PeakMemory

MILLION = 1_000_000


def fake(*shape, **options):
    with FAKE:
        return torch.empty(shape, **options)


def block(x, weight):
    return (x @ weight).exp().sin().exp()


def test_the_peak_counts_tensors_that_live_at_the_same_time():
    with TensorMeter() as meter:
        kept = fake(250_000) + 1
        with meter.reading() as reading:
            for _ in range(3):
                large = kept * 2
                del large
    assert (reading.before, reading.peak, reading.growth) == (MILLION, 2 * MILLION, MILLION)
    del kept
    assert meter.num_bytes == 0


def test_tensors_without_memory_do_not_count():
    with TensorMeter() as meter, meter.reading() as reading:
        with torch.device("meta"):
            empty = torch.nn.Linear(500, 500, bias=False)
        empty.weight = torch.nn.Parameter(fake(500, 500, dtype=torch.bfloat16))
    assert reading.growth == MILLION // 2


def test_views_do_not_count_and_real_tensors_do():
    with TensorMeter() as meter:
        real = torch.ones(500, 500)
        views = [real.T, real[1:], real.view(-1)]
    assert meter.num_bytes == MILLION
    assert len(views) == 3


def test_checkpointing_lowers_memory_and_adds_arithmetic():
    readings = []
    for again in (False, True):
        x, weight = fake(500, 500, requires_grad=True), fake(500, 500)
        with TensorMeter() as meter, meter.reading() as reading:
            y = x
            for _ in range(4):
                y = checkpoint(block, y, weight, use_reentrant=False) if again else block(y, weight)
            y.sum().backward()
        readings.append(reading)
    kept, computed_again = readings
    assert computed_again.peak < 0.75 * kept.peak
    assert kept.flops == 8 * 2 * 500**3
    assert computed_again.flops == 12 * 2 * 500**3


def test_attention_stores_no_matrix_and_its_arithmetic_counts():
    query, key, value = (fake(1, 2, 4096, 64, requires_grad=True) for _ in range(3))
    with TensorMeter() as meter, meter.reading() as reading:
        scaled_dot_product_attention(query, key, value).sum().backward()
    assert reading.peak < 8 * query.nbytes
    assert reading.flops == (2 + 5) * 2 * 2 * 4096**2 * 64


def test_buffers_of_convolutions_equal_the_profilers():
    small, large = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 64, 4, 34, 34)
    for image in (small, large, large.contiguous(memory_format=torch.channels_last_3d), large[:, :, 1:]):
        weight = torch.randn(48, image.shape[1], 3, 3, 3)
        with torch.no_grad(), PeakMemory("cpu") as peak:
            conv3d(image, weight)
        with TensorMeter() as meter, meter.reading() as reading:
            conv3d(image, weight)
        assert abs(reading.growth / peak.num_bytes - 1) < 0.15, (image.shape, reading.growth, peak.num_bytes)


def test_fake_numbers_count_as_finite():
    with TensorMeter():
        assert fake(3).isfinite().all()
