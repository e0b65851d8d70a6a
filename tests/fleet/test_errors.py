import errno

import pytest
import torch

from fleet.errors import explain, is_hopeless

ACCELERATOR = getattr(torch, "AcceleratorError", RuntimeError)  # from torch 2.8
ASSERT = (
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(ASSERT), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: as someone quotes it"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_only_a_full_disk_and_a_lost_gpu_are_hopeless(error, expected):
    assert is_hopeless(error) == expected


@pytest.mark.skipif(ACCELERATOR is RuntimeError, reason="an older torch")
def test_any_error_of_an_accelerator_loses_it():
    error = ACCELERATOR.__new__(ACCELERATOR)
    RuntimeError.__init__(error, "an illegal memory access was encountered")
    assert is_hopeless(error)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError(ASSERT), "CUDA error: device-side assert triggered. This process cannot use"),
        (OSError(errno.ENOSPC, "full"), "[Errno 28] full. Free some space, or make the folder wri"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has"),
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. Let fewer models "
            "share a GPU (`--fleet.gpus_per_model`), or give one model several",
        ),
        (KeyError("lost"), "KeyError: 'lost'"),
        (ValueError(), "ValueError: "),
    ],
)
def test_an_error_is_one_line_with_the_way_out(error, line):
    said = explain(error)
    assert said.startswith(line)
    assert "\n" not in said
