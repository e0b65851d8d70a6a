"""Work in Ray's object store, whose tensors all processes of a node share."""

import warnings
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fleet.engine import Work


def put(work: Work) -> Any:  # noqa: ANN401
    """Put work where all processes of a node map its tensors without a copy.

    PyTorch pickles a tensor by value, and for a view all of its storage: the membership of 128
    models, whose rows are views, took 819 MB instead of 6.4 MB.
    """
    ray: Any = import_module("ray")
    ray.util.register_serializer(torch.Tensor, serializer=_to_bytes, deserializer=_to_tensor)
    shared = ray.put(work)
    ray.util.deregister_serializer(torch.Tensor)
    return shared


def _to_bytes(tensor: Tensor) -> tuple[NDArray[np.uint8], torch.dtype, torch.Size]:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy(), flat.dtype, tensor.shape


def _to_tensor(packed: tuple[NDArray[np.uint8], torch.dtype, torch.Size]) -> Tensor:
    content, dtype, shape = packed
    if not content.size:  # has no strides to be viewed by
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not writable.*")  # nothing writes to it
        return torch.from_numpy(content).view(dtype).view(shape)
