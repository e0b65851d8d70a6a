"""An ONNX graph that is rewritten: its nodes in order, and its tensors by name."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Node = Any  # `onnx.NodeProto`; the package need not be installed
OnnxModel = Any


class Graph:
    """The graph of a model, which stays as it is until `write`.

    Attributes:
        nodes: the nodes, each behind those whose values it takes.
        tensors: constant tensors by name.
        packed: constant tensors of types that NumPy lacks.
    """

    def __init__(self, model: OnnxModel) -> None:
        from onnx import numpy_helper

        self.model = model
        self.nodes: list[Node] = list(model.graph.node)
        tensors = model.graph.initializer
        self.tensors: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in tensors}
        self.packed: list[Any] = []

    def users(self, value: str) -> list[Node]:
        """Nodes that take a value; where it is an output of the graph, that counts as one."""
        users = [node for node in self.nodes if value in node.input]
        return users + [output for output in self.model.graph.output if output.name == value]

    def maker(self, value: str) -> Node | None:
        """The node that makes a value, if one does."""
        return next((node for node in self.nodes if value in node.output), None)

    def rename(self, old: str, new: str) -> None:
        """Let all nodes that take one value take another."""
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new

    def add_before(
        self, node: Node, kind: str, inputs: list[str], output: str, **attributes: int
    ) -> str:
        """Add a node before another; returns the name of its value."""
        from onnx import helper

        position = next(number for number, other in enumerate(self.nodes) if other is node)
        make: Any = helper.make_node  # mypy takes attributes for names
        self.nodes.insert(position, make(kind, inputs, [output], **attributes))
        return output

    def remove(self, node: Node) -> None:
        """Remove a node."""
        self.nodes = [other for other in self.nodes if other is not node]

    def write(self) -> None:
        """Put nodes and tensors into the model, without what nothing takes."""
        from onnx import numpy_helper

        used = {output.name for output in self.model.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                kept.append(node)
                used.update(node.input)
        graph = self.model.graph
        graph.ClearField("node")
        graph.ClearField("initializer")
        graph.node.extend(reversed(kept))
        for name, array in self.tensors.items():
            if name in used:  # `ascontiguousarray` would give scalars an axis
                graph.initializer.append(numpy_helper.from_array(np.array(array, order="C"), name))
        graph.initializer.extend(tensor for tensor in self.packed if tensor.name in used)
