"""Which library multiplies: what each finds is the same."""

import pytest
import torch

from neuralef.precision import onednn_is_faster, product_by_onednn


@pytest.mark.parametrize(("R", "S", "C"), [(1, 1, 1), (1, 300, 12), (300, 1, 12), (37, 53, 19), (512, 1024, 384)])
def test_a_convolution_of_one_pixel_is_a_matrix_product(R, S, C):
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(R + 3, C, generator=generator)[2 : R + 2]  # a part of a matrix, as in the search
    right = torch.randn(S, C, generator=generator)
    found = product_by_onednn(left, right)
    assert found.shape == (R, S)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), left.double() @ right.double().T, rtol=1e-5, atol=1e-5 * C**0.5)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx2": True, "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC", "avx2": True, "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_f": True}, False),
        ({"neon": True}, False),
    ],
)
def test_onednn_is_faster_where_mkl_leaves_out_half_of_the_processor(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert onednn_is_faster() == (expected and torch.backends.mkldnn.is_available())
