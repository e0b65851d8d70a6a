"""What a library raises inside a network, as one line: where it happened, and a way out."""

import re
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from storage import files

# Not shown as a place, because a user cannot change them: torch, our own files, Python's library,
# and Opacus, which may not be installed.
HIDDEN = (
    *(Path(f).parent for f in (torch.__file__, __file__, files.__file__, traceback.__file__)),
    Path(torch.__file__).parents[1] / "opacus",
)

MUST_FIT = r"size|shape|dimension|stride|expected|match|index|multiple|divisible"
SIZES = "Fit its sizes to the data by `--model.network_args`, or the images by `--data.image_size`."
WORKED = (
    "It has worked on 2 images in evaluation: let it take any number of images, keep nothing of an "
    "earlier batch, and fit what it does only in training to the data."
)
WAYS_OUT = {
    r"inplace operation|modified inplace": "Write that result into a new tensor (`x = x + y` "
    "instead of `x += y`, `inplace=False`).",
    r"Per sample gradient is not": "Leave out the layers that the loss does not depend on, or "
    "freeze them by `requires_grad_(False)`.",
    r"layer with buffers": "Differential privacy needs layers that keep nothing of a batch: switch "
    "off `track_running_stats`, or take GroupNorm.",
    r"Only Tensors created explicitly": "Quantizers and signals need copies. The old "
    "`torch.nn.utils.weight_norm` and `spectral_norm` forbid them: take those of "
    "`torch.nn.utils.parametrizations`, and leave their layers out by `--layer_bits`. Otherwise "
    "keep no computed tensor as an attribute.",
    r"(cannot|can't|could not) (be )?(pickle|copy|deepcopy)": "Quantizers and signals need copies: "
    "keep no file, lock or generator as an attribute, or define `__deepcopy__`.",
    r"memory format|sparse": "Its parameters and buffers must be dense; a buffer with "
    "`persistent=False` is not saved.",
    r"view size is not compatible": "Write `reshape` instead of `view` there: images and weights "
    "are in `torch.channels_last`.",
    r"more than 1 (value per channel|spatial element)": "Normalisation sees a single value per "
    "channel there: raise `--data.batch_size`, take larger images, or leave out that layer.",
    r"does not require grad": "The loss must depend on weights that train: look for "
    "`requires_grad_(False)`, `detach`, `no_grad` and `argmax`.",
    r"dtype|should be the same|scalar type|not implemented for": "Build the network in float32 "
    "and let it keep the type of its input; `--trainer.precision` decides what trains.",
    r"nference tensor": "It keeps a tensor of an evaluation and trains with it: keep a buffer, or "
    "make that tensor anew in each call.",
    r"out of memory": "Take a smaller `--data.batch_size`, or several `--trainer.devices`.",
    r"to have (\d+) channels, but got (\d+) channels": "Let its constructor take `channels`, or "
    "pass their number in `--model.network_args` (timm: `in_chans`); `--data.channels` changes the "
    "images of an ImageFolder.",
    r"to conv2d, but got input of size: \[\d+, \d+\]": "The data has rows of numbers: take "
    "`--model.network mlp`.",
    r"argument": "BitLeak calls it with one tensor of images, by position.",
    MUST_FIT: SIZES,
}


def complain(
    network: nn.Module, step: str, error: BaseException, place: str = "", worked: bool = False
) -> str:
    """Say in one line which network failed where and why, with a way out.

    Args:
        network: the network.
        step: what it was doing, such as "in evaluation".
        error: what was raised.
        place: a line of the user's code; by default the last one that was running.
        worked: whether it has evaluated two images.
    """
    layer, running = _locate(network, error)
    where = ", ".join(part for part in (layer, place or running) if part)
    line = (str(error).strip().splitlines() or ["no message"])[0]
    line = line.partition(" Hint: ")[0].partition(".  ")[0].rstrip(".")
    way = next((way for key, way in WAYS_OUT.items() if re.search(key, line, re.IGNORECASE)), "")
    if way == SIZES and worked:
        way = WORKED
    return (
        f"{type(network).__name__} fails {step}{f', at {where}' if where else ''}: "
        f"{type(error).__name__}: {line}. {way or 'Mend it, or take another network.'}"
    )


def _locate(network: nn.Module, error: BaseException) -> tuple[str, str]:
    """The innermost module of the network that was running, and the last line outside torch."""
    names = {id(module): name for name, module in network.named_modules()}
    layer = place = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        running = frame.f_locals.get("self")
        if name := names.get(id(running), ""):
            layer = f"`{name}` ({type(running).__name__})"
        file = Path(frame.f_code.co_filename)
        if not _hidden(file):
            place = f"line {number} of {file.name}"
    return layer, place


def find_forward(work: Callable[[], object]) -> str:
    """The line of the forward pass whose gradient cannot be computed, or nothing.

    Args:
        work: the forward and the backward pass, which fails.
    """
    with warnings.catch_warnings(record=True) as notes, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        with suppress(Exception):  # it is known already
            work()
    text = "\n".join(str(note.message) for note in notes)
    lines = re.findall(r'File "(.+?)", line (\d+), in ', text)
    places = [f"line {number} of {Path(file).name}" for file, number in lines if not _hidden(file)]
    return places[-1] if places else ""


def _hidden(file: Path | str) -> bool:
    return any(folder in Path(file).parents for folder in HIDDEN) or str(file).startswith("<")
