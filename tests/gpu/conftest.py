"""A GPU without one: tensors that say they are on `lazy:0`, and are computed on the CPU.

It refuses what CUDA refuses, counts kernels, and counts what makes a CPU wait for a GPU. PyTorch
knows the device type `lazy`, has no backend for it in any build, and runs its backward passes in
the calling thread, so that Python is enough. What it cannot tell: autocast, cuDNN, memory, streams.
"""

from collections import Counter
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import fleet.fit as fit_module
import fleet.trials as trials_module
from datamodules.images import ImageDataModule

GPU = torch.device("lazy", 0)
ATEN = torch.ops.aten
COPIES = {ATEN.copy_.default, ATEN._to_copy.default, ATEN._copy_from.default}
# take indices from the CPU, for which a GPU waits
INDEXED = {
    ATEN.index.Tensor, ATEN._unsafe_index.Tensor, ATEN.index_put.default,
    ATEN.index_put_.default, ATEN._index_put_impl_.default,
}  # fmt: skip
# give a number to Python, or a shape that depends on values
WAITS = {
    ATEN._local_scalar_dense.default, ATEN.item.default, ATEN.is_nonzero.default,
    ATEN.equal.default, ATEN.nonzero.default, ATEN.masked_select.default, ATEN._unique2.default,
}  # fmt: skip
WITHOUT_KERNEL = {
    "_conj", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "detach_",
    "diagonal", "empty", "empty_like", "empty_strided", "expand", "is_pinned", "lift_fresh",
    "new_empty", "new_empty_strided", "permute", "resolve_conj", "resolve_neg", "select", "set_",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold",
    "unsqueeze", "view",
}  # fmt: skip
GROUP = 50  # tensors that one kernel of a fused or foreach operation takes, about


class Counts:
    """What was asked of the GPU.

    Attributes:
        kernels: number of launches by operation.
        waits: times that the CPU and the GPU waited for each other, by reason.
        operations: names of all operations.
    """

    def __init__(self):
        self.kernels, self.waits, self.operations = Counter(), Counter(), set()

    def waited(self):
        """Number of waits so far."""
        return sum(self.waits.values())

    def launched(self):
        """Number of kernels so far."""
        return sum(self.kernels.values())

    def add(self, function, args, kwargs, to_gpu):
        """Count one operation."""
        name, full_name, _ = describe(function)
        self.operations.add(full_name)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        emulated = sum(map(is_emulated, tensors))
        if name not in WITHOUT_KERNEL:
            many = name.startswith(("_foreach", "_fused"))
            self.kernels[name] += max(1, emulated // GROUP) if many else 1
        if function in WAITS:
            self.waits[name] += 1
        elif function in INDEXED:
            indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
            self.waits["indices"] += sum(not is_emulated(index) for index in indices)
            self.waits["mask"] += sum(index.dtype == torch.bool for index in indices)
        elif (tensors and not to_gpu) or (is_copy(function) and emulated < len(tensors)):
            self.waits["copy"] += not kwargs.get("non_blocking", False)


class EmulatedTensor(torch.Tensor):
    """A tensor on the GPU; `held` has its values."""

    @staticmethod
    def __new__(cls, held, requires_grad=False):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=GPU,
            requires_grad=requires_grad,
        )
        made.held = held
        return made

    def __init__(self, *_, **__):
        pass

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} on the emulated GPU, but it is switched off")

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            with torch.no_grad():
                copied = EmulatedTensor(self.held.detach().clone())
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return self.held.detach().__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self, **_):
        return f"EmulatedTensor({self.held!r})"

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else repr(self)


def is_emulated(value):
    """Whether a value is a tensor on the GPU."""
    return isinstance(value, EmulatedTensor)


def is_copy(function):
    """Whether an operation may copy between devices; inference mode sees `to` as a whole."""
    return function in COPIES or describe(function)[0] == "to"


def hold(value):
    """The values of a tensor on the GPU; anything else as it is."""
    return value.held if is_emulated(value) else value


def place(value):
    """A tensor with these values on the GPU; anything else as it is."""
    if not isinstance(value, Tensor) or is_emulated(value):
        return value
    with torch.inference_mode(False):  # a view made in it, of a tensor from outside, is none of it
        return EmulatedTensor(value)


class EmulatedGPU(TorchDispatchMode):
    """While it is active, operations on `lazy:0` are checked, counted and done on the CPU."""

    def __init__(self):
        super().__init__()
        self.counts = Counts()

    def __enter__(self):
        self.lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # or `torch.tensor(1, device=GPU)` needs a backend
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.lifts)
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, device = dict(kwargs or {}), (kwargs or {}).get("device")
        leaves = tree_leaves((args, kwargs))
        emulated = any(map(is_emulated, leaves))
        to_gpu = emulated if device is None else torch.device(device).type == GPU.type
        if not emulated and not to_gpu:
            return function(*args, **kwargs)
        refuse(function, args, leaves, to_gpu)
        self.counts.add(function, args, kwargs, to_gpu)
        written = {id(hold(v)): v for v in written_arguments(function, args, kwargs)}
        kwargs |= {"device": torch.device("cpu")} if device is not None and to_gpu else {}
        kwargs.pop("pin_memory", None)
        outputs = function(*tree_map(hold, args), **tree_map(hold, kwargs))

        def move(output):
            return written.get(id(output), place(output) if to_gpu else output)

        return tree_map(move, outputs)


@cache
def describe(function):
    """The name of an operation, its full name, and the arguments that it writes to."""
    schema, overload = function._schema, function._overloadname
    written = [
        (number, argument.name)
        for number, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    name = schema.name.removeprefix("aten::")
    return name, schema.name + ("" if overload == "default" else f".{overload}"), written


def written_arguments(function, args, kwargs):
    """The arguments that an operation changes, and returns as they are."""
    for number, name in describe(function)[2]:
        value = args[number] if number < len(args) else kwargs.get(name)
        yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def refuse(function, args, leaves, to_gpu):
    """Raise what CUDA raises."""
    name = describe(function)[0]
    if to_gpu and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{name}: expected a generator on the GPU but found one on the CPU")
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if is_copy(function) or not any(map(is_emulated, tensors)):
        return
    if function in INDEXED and is_emulated(args[0]):
        tensors = [leaf for leaf in tree_leaves(args[2:]) if isinstance(leaf, Tensor)]
    away = [tensor for tensor in tensors if not is_emulated(tensor) and tensor.dim()]
    if away:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, but found at least two, on "
            f"the GPU and of {tuple(away[0].shape)} on the CPU"
        )


class EmulatedAccelerator(Accelerator):
    """Lightning's side of the GPU."""

    def setup_device(self, device):
        pass

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [GPU]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return "emulated"


@pytest.fixture
def emulated(monkeypatch):
    """A GPU that is emulated: its device, and its counts."""
    enabled, fused = torch.is_autocast_enabled, optimizers._get_fused_kernels_supported_devices

    def is_autocast_enabled(kind="cuda", *rest):
        return kind != GPU.type and enabled(kind, *rest)

    def trainer(**options):
        options |= {"accelerator": EmulatedAccelerator(), "devices": 1}
        return Trainer(**options | {"strategy": SingleDeviceStrategy(device=GPU)})

    monkeypatch.setattr(torch, "is_autocast_enabled", is_autocast_enabled)
    supported = lambda: [*fused(), GPU.type]  # noqa: E731
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", supported)
    monkeypatch.setattr("datamodules.images.fits", lambda images, device: device == GPU)
    for module in (fit_module, trials_module):
        monkeypatch.setattr(module, "Trainer", trainer)
    # a parameter that changes its device or type is replaced, because it cannot take over `held`
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with EmulatedGPU() as gpu:
            yield SimpleNamespace(device=GPU, counts=gpu.counts)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.fixture(autouse=True)
def same_batches(monkeypatch):
    """Record signals in batches of one size, so that sums are the same on every device."""
    monkeypatch.setattr(ImageDataModule, "_evaluation_batch", 512)
