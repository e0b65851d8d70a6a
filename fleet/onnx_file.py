"""One ONNX file, ours or anybody's, as a function from images to logits."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from quantization.onnx_session import open_session

FLOATS = {"tensor(float)": torch.float32, "tensor(double)": torch.float64}
SUM = 1e-3  # by which probabilities that were rounded to 16 bits may miss 1


class OnnxFile:
    """A session of ONNX Runtime on the CPU.

    Args:
        path: the file.
        threads: threads of the session.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: onnxruntime cannot run it, or it does not take floats alone.
    """

    def __init__(self, path: Path, threads: int) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"No file {path}. Pass ONNX files, one per model.")
        try:
            self.session = open_session(str(path), threads)
        except ImportError:  # of onnxruntime itself
            raise
        except Exception as error:  # of a type of its own per cause
            raise ValueError(
                f"{path} must be an ONNX file that runs, got: {_line(error)}"
            ) from error
        self.path, inputs = path, self.session.get_inputs()
        given = ", ".join(f"`{i.name}` {i.type} {i.shape}" for i in inputs)
        if len(inputs) != 1 or inputs[0].type not in FLOATS:
            raise ValueError(
                f"{path} must have one input, of float32 or float64 images, got {given}. Export it"
                " with its preprocessing left out: images are given as they are trained on here."
            )
        self.input, self.dtype = inputs[0], FLOATS[inputs[0].type]
        outputs = [output.name for output in self.session.get_outputs()]
        self.output = "logits" if "logits" in outputs else outputs[0]

    def check(self, image: tuple[int, ...]) -> None:
        """Raise ValueError if the file fixes another size of an image than this."""
        sizes = self.input.shape[1:]
        pairs = zip(sizes, image, strict=False)
        fits = len(sizes) == len(image) and all(s == i for s, i in pairs if isinstance(s, int))
        if not fits:
            raise ValueError(
                f"{self.path} takes images of [{', '.join(map(str, sizes))}], and the data has"
                f" {list(image)} (channels first). Choose the data's size, such as"
                " `--data.image_size`, or export the file for this one."
            )

    def logits(self, images: Float[Tensor, "batch ..."], num_classes: int) -> Tensor:
        """Compute logits [batch, classes].

        A batch of a size that the file fixes is filled up, and what is added is cut off again.

        Raises:
            ValueError: the session fails, or its output is not one finite logit per class.
        """
        size = self.input.shape[0]
        parts = torch.split(images, size) if isinstance(size, int) else [images]
        logits = torch.cat([self._run(part, size) for part in parts])
        if logits.shape != (len(images), num_classes):
            raise ValueError(
                f"{self.path} must give a logit for each of the data's {num_classes} classes, got"
                f" `{self.output}` of shape {[*logits.shape]} for {len(images)} images."
                " Take the data that it was trained for."
            )
        if not logits.isfinite().all():
            raise ValueError(
                f"{self.path} gives logits that are not finite. Leave that model out, or train it"
                " again."
            )
        if (logits >= 0).all() and ((logits.sum(-1) - 1).abs() < SUM).all():
            raise ValueError(
                f"{self.path} gives probabilities, whose digits near 0 and 1 are lost. Export the"
                " logits, before the softmax."
            )
        return logits

    def _run(self, images: Tensor, size: object) -> Tensor:
        count = len(images)
        if isinstance(size, int) and count < size:
            images = torch.cat([images, images[:1].expand(size - count, *images.shape[1:])])
        given = images.to(self.dtype).contiguous().numpy()
        try:
            (output,) = self.session.run([self.output], {self.input.name: given})
        except Exception as error:
            raise ValueError(
                f"{self.path} must run on images of {[*images.shape]}, got: {_line(error)}"
            ) from error
        values: Tensor = torch.as_tensor(output)
        if not values.is_floating_point():
            raise ValueError(
                f"{self.path} must give floats, got {values.dtype} in `{self.output}`. Export the"
                " logits instead of the class."
            )
        return values.float()[:count] if values.ndim else values.float()


def _line(error: Exception) -> str:
    """The first line of onnxruntime's message, without its codes."""
    return str(error).strip().partition("\n")[0].rpartition(" : ")[2].rstrip(".") + "."
