"""What an error in one model means for the next ones, and the way out of it."""

import errno

import torch

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def is_hopeless(error: BaseException) -> bool:
    """Whether the next model would be trained in vain: no file can be written, or the GPU is lost.

    After any CUDA error but a lack of memory, every later CUDA call of the process fails.
    """
    return fills_disk(error) or _lost_gpu(error)


def fills_disk(error: BaseException) -> bool:
    """Whether no more files can be written."""
    return getattr(error, "errno", None) in FULL_DISK


def explain(error: BaseException) -> str:
    """The first line of an error, and the way out where there is one."""
    if fills_disk(error):
        return (
            f"{error}. Free some space, or make the folder writable; then the same command goes on."
        )
    line = (str(error).strip().splitlines() or [""])[0]
    if _lost_gpu(error):
        return (
            f"{line.rstrip('.')}. This process cannot use its GPU any more. The same command goes "
            "on; if it stops at the same model again, CUDA_LAUNCH_BLOCKING=1 before it tells where."
        )
    reason = f"{type(error).__name__}: {line}"
    if _lacks_memory(error):
        reason = reason.rstrip(".") + (
            ". Let fewer models share a GPU (`--fleet.gpus_per_model`), or give one model several "
            "(`--trainer.devices`); a smaller `--data.batch_size` is another experiment"
        )
    return reason


def _lost_gpu(error: BaseException) -> bool:
    if _lacks_memory(error):
        return False
    kinds = getattr(torch, "AcceleratorError", ())  # from torch 2.8
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and str(error).startswith("CUDA error")
    )


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "CUDA error: out of memory" in str(error)
    )
