"""The machine: its GPUs, and the libraries that use them."""

import platform
import subprocess

import torch

QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]


def describe() -> list[str]:
    """Lines of Markdown on the GPUs, the driver, PyTorch, CUDA and cuDNN."""
    try:
        done = subprocess.run(QUERY, capture_output=True, encoding="utf-8", timeout=60, check=True)
        cards = done.stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        cards = []
    gpus = cards or ["none that `nvidia-smi` shows"]
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return [
        *(f"- GPU (name, driver, memory): {gpu}" for gpu in gpus),
        f"- PyTorch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN "
        f"{cudnn or 'none'}, Python {platform.python_version()}",
    ]
