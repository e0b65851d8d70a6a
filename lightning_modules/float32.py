"""Whether a GPU may round float32 to TF32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow, or forbid, that GPUs round the factors of float32 products to 10 bits of mantissa.

    By default cuDNN's convolutions do so on Ampere and later, and matrix products do not; a
    container may have set either.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    # torch 2.9 has newer names for these flags, and raises where both kinds are used
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = allowed
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before
