import pytest
import torch

from lightning_modules.float32 import tf32


def flags():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("allowed", [True, False])
def test_both_flags_are_set_and_put_back_even_after_an_error(allowed):
    @tf32(allowed)
    def fail():
        assert flags() == (allowed, allowed)
        raise KeyError("an error of the work")

    before = flags()
    with tf32(not allowed):
        with pytest.raises(KeyError, match="an error of the work"):
            fail()
        assert flags() == (not allowed, not allowed)
    assert flags() == before
