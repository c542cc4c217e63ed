"""Control flow that does not depend on the input is carried out: If, Loop, Scan and SequenceMap become the nodes that
they would run, sequences and optional values the tensors in them.

The graph is walked once in topological order and written anew. A plain node is copied. Of an If whose condition is
constant the branch taken is copied in its place; of a Loop whose trip count and conditions are constant, and of a Scan,
one copy of the body for each iteration, the values carried from one to the next, what the iterations yield put together
by a Concat. Names inside get a number, since every iteration has tensors of its own; what a body reads from around it
keeps its name. Constant means what `verifier.net.trace` means by it: computed from weights and from shapes that do not
depend on the input; ONNX Runtime computes the value. Exact, since the nodes that are left are those that the runtime
would run, in its order, on every input.

A node that decides by the input stays whole, and so does a loop that would become too large.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifier.net.functions import Look
from verifier.net.nested import captured, graphs_in, read_anywhere, reads, rename_captured
from verifier.net.sequences import SEQUENCE_OPS, Stays, attribute, fold_sequence
from verifier.net.trace import live_nodes

MOST_NODES = 20_000  # that bodies may become
Scope = ChainMap  # name in the file's graph -> name in the graph that is written


def flatten(model: onnx.ModelProto, look: Look, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    """The model without the control flow and the sequences that are constant; `model` itself where there are none.
    Tensors in `keep` and outputs survive under their names."""
    if not any(n.op_type in FOLDS or n.op_type in SEQUENCE_OPS - {"Identity"} for n in model.graph.node):
        return model
    flat = Flat(model, look, keep)
    flat.nodes(live_nodes(model.graph, (*(o.name for o in model.graph.output), *keep)), ChainMap({}), "")
    return flat.made if flat.folded else model


class Flat:
    """The graph that is written, and what is known of its tensors."""

    def __init__(self, model: onnx.ModelProto, look: Look, keep: tuple[str, ...]):
        self.look = look
        self.roots = {*(o.name for o in model.graph.output), *keep}
        self.wanted = read_anywhere(model.graph) | set(keep)
        self.made = onnx.ModelProto()
        self.made.CopyFrom(model)
        self.graph = self.made.graph
        del self.graph.node[:]
        del self.graph.value_info[:]  # of names that may be gone
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.initial = {t.name: t for t in self.graph.initializer}
        self.makers: dict[str, int] = {}  # which node of the graph yields a tensor
        self.values: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.lists: dict[str, list[str] | None] = {}  # sequences, and optional values: one name or None
        self.taken = {*self.initial, *(i.name for i in self.graph.input)}
        self.taken.update(name for n in model.graph.node for name in (n.name, *n.output))
        self.bodies: dict[int, tuple[onnx.GraphProto, dict[str, str]]] = {}
        self.copies = 0
        self.in_bodies = 0
        self.folded = False

    # --- what is known

    def value(self, name: str) -> np.ndarray | None:
        """The value of a tensor that is written already, None if it depends on the input."""
        if name not in self.values and name in self.initial:
            self.values[name] = numpy_helper.to_array(self.initial[name])
        if name not in self.values and name in self.makers:
            self._run(name)
        return self.values.get(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor that is written already, None if it depends on the input or is no tensor."""
        if name in self.initial:
            return tuple(self.initial[name].dims)
        if name not in self.shapes:
            self._run(name)
        return self.shapes.get(name)

    def _run(self, name: str) -> None:
        """Looks at what `name` is computed from, back to values that are known."""
        live: set[int] = set()
        constants: set[str] = set()
        stack = [name]
        while stack:
            here = stack.pop()
            if here in self.values or here in self.initial:
                constants.add(here)
            elif here in self.makers and self.makers[here] not in live:
                live.add(self.makers[here])
                stack += reads(self.graph.node[self.makers[here]])
        small = onnx.ModelProto(ir_version=self.made.ir_version, opset_import=self.made.opset_import)
        small.graph.name = "part"
        small.graph.input.extend(i for i in self.graph.input if i.name not in self.initial)
        for known in constants:
            tensor = self.initial.get(known)
            small.graph.initializer.append(
                numpy_helper.from_array(self.values[known], known) if tensor is None else tensor
            )
        small.graph.node.extend(self.graph.node[k] for k in sorted(live))
        same = f"{name}//same"  # a run needs an operator, also where `name` is an input
        small.graph.node.append(helper.make_node("Identity", [name], [same]))
        small.graph.output.append(onnx.ValueInfoProto(name=same))
        found = self.look(small)
        self.values.update(found.values)
        fixed = {n: s for n, s in found.shapes.items() if n not in found.open_shapes and found.dtypes[n].kind != "O"}
        self.shapes.update(fixed)

    def maker(self, name: str) -> str:
        """The operator that yields a tensor; '' for inputs, weights, and sequences."""
        return self.graph.node[self.makers[name]].op_type if name in self.makers else ""

    # --- writing

    def fresh(self, name: str, mark: str) -> str:
        """A name that is not taken, made from one of the file."""
        made, k = f"{name}{mark}", 0
        while made in self.taken:
            made, k = f"{name}{mark}.{k}", k + 1
        self.taken.add(made)
        return made

    def constant(self, value: Any, base: str) -> str:
        """A new constant."""
        name = self.fresh(base, "#c")
        self.values[name] = np.asarray(value)
        self.graph.initializer.append(numpy_helper.from_array(self.values[name], name))
        self.initial[name] = self.graph.initializer[-1]
        return name

    def emit(self, op: str, inputs: Sequence[str], base: str, **attrs: Any) -> str:
        """Writes a node of ONNX's own and returns the name of its output."""
        name = self.fresh(base, "#t")
        self.write(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    def write(self, node: onnx.NodeProto) -> None:
        self.makers.update((o, len(self.graph.node)) for o in node.output if o)
        self.graph.node.append(node)

    def joined(self, parts: Sequence[str], axis: int, base: str) -> str:
        """Tensors put together along an axis."""
        return self.emit("Concat", parts, base, axis=axis)

    def stacked(self, parts: Sequence[str], axis: int, base: str) -> str:
        """Tensors of one shape put together along a new axis."""
        axes = {"axes": [axis]} if self.opset < 13 else {}
        more = () if axes else (self.constant(np.array([axis], np.int64), base),)
        rows = [self.emit("Unsqueeze", (part, *more), base, **axes) for part in parts]
        return self.joined(rows, axis, base)

    def nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope, mark: str) -> None:
        """Writes nodes that read names by `scope`; `mark` is put to the names of what they yield."""
        for node in nodes:
            fold = fold_sequence if node.op_type in SEQUENCE_OPS else FOLDS.get(node.op_type)
            if node.domain not in ("", "ai.onnx") or fold is None or not self.fold(fold, node, scope, mark):
                self.copy(node, scope, mark)

    def fold(self, fold: Callable[..., list[str]], node: onnx.NodeProto, scope: Scope, mark: str) -> bool:
        """Writes what the node would run, if that can be told."""
        before, folded, lists, count = len(self.graph.node), self.folded, dict(self.lists), self.in_bodies
        try:
            results = fold(self, node, [scope.get(i, i) for i in node.input], scope)
        except Stays:
            for n in self.graph.node[before:]:
                for o in n.output:
                    self.makers.pop(o, None)
            del self.graph.node[before:]
            self.folded, self.lists = folded, lists
            self.in_bodies = self.in_bodies if mark else count
            return False
        self.folded = True
        for name, result in zip(node.output, results):
            if name:
                scope[name] = result
            if name in self.roots and not mark:
                self.solid(result)
                self.write(helper.make_node("Identity", [result], [name]))
        return True

    def copy(self, node: onnx.NodeProto, scope: Scope, mark: str) -> None:
        """Writes the node itself."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        if made.name and mark:  # a node's name is its own in ONNX Runtime
            made.name = self.fresh(made.name, mark)
        made.input[:] = [scope.get(i, i) for i in node.input]
        outer = {name: scope[name] for name in captured(node) if name in scope}
        if outer:
            rename_captured(made, outer)
        for k, name in enumerate(node.output):
            if name and mark:
                scope[name] = made.output[k] = self.fresh(name, mark)
        for name in reads(made):
            self.solid(name)
        if mark:
            self.in_bodies += 1
            if self.in_bodies > MOST_NODES:
                raise Stays
        self.write(made)

    def solid(self, name: str) -> None:
        """Makes a sequence of the graph out of one that was only kept account of."""
        parts = self.lists.pop(name, None)
        if parts is not None:
            self.write(helper.make_node("SequenceConstruct" if parts else "SequenceEmpty", parts, [name]))

    def body(self, graph: onnx.GraphProto, given: Sequence[str], scope: Scope) -> list[str]:
        """Writes a body whose inputs are the tensors `given`; the names of its outputs."""
        self.copies += 1
        mark = f"#{self.copies}"
        if id(graph) not in self.bodies:
            names = {}
            for tensor in graph.initializer:
                copy = self.graph.initializer.add()
                copy.CopyFrom(tensor)
                copy.name = names[tensor.name] = self.fresh(tensor.name, mark)
                self.initial[copy.name] = copy
            self.bodies[id(graph)] = graph, names
        inner = scope.new_child(dict(self.bodies[id(graph)][1]))
        inner.update(zip((i.name for i in graph.input), given))
        self.nodes(graph.node, inner, mark)
        return [inner.get(o.name, o.name) for o in graph.output]


def truth(flat: Flat, name: str) -> bool:
    """A condition that is constant; one that is left out holds."""
    value = flat.value(name) if name else np.array(True)
    if value is None or value.size != 1:
        raise Stays
    return bool(value.reshape(())[()])


def fold_if(flat: Flat, node: onnx.NodeProto, inputs: list[str], scope: Scope) -> list[str]:
    taken = "then_branch" if truth(flat, inputs[0]) else "else_branch"
    return flat.body(attribute(node, taken, None), (), scope)


def fold_loop(flat: Flat, node: onnx.NodeProto, inputs: list[str], scope: Scope) -> list[str]:
    count, condition, *carried = (*inputs, "", "")[: max(2, len(inputs))]
    trips = flat.value(count) if count else np.array(np.iinfo(np.int64).max)
    if trips is None or trips.size != 1:
        raise Stays
    graph = graphs_in(node)[0]
    stacks: list[list[str]] = [[] for _ in range(len(graph.output) - 1 - len(carried))]
    yes = flat.constant(np.array(True), "condition")
    going, number = truth(flat, condition), 0
    while going and number < int(trips.reshape(())[()]):
        step = flat.constant(np.array(number, np.int64), "iteration")
        again, *results = flat.body(graph, (step, yes, *carried), scope)
        carried = results[: len(carried)]
        for stack, part in zip(stacks, results[len(carried) :]):
            stack.append(part)
        going, number = truth(flat, again), number + 1
    if not number and flat.wanted.intersection(node.output[len(carried) :]):
        raise Stays  # a tensor without entries, whose other dimensions only the runtime knows
    return [*carried, *(flat.stacked(s, 0, "scan") if s else "" for s in stacks)]


def fold_scan(flat: Flat, node: onnx.NodeProto, inputs: list[str], scope: Scope) -> list[str]:
    if flat.opset < 9:
        raise Stays  # it had a batch axis of its own then
    graph, count = graphs_in(node)[0], attribute(node, "num_scan_inputs", 0)
    state, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    outputs = len(graph.output) - len(state)
    axes = attribute(node, "scan_input_axes", None) or [0] * count
    backward = attribute(node, "scan_input_directions", None) or [0] * count
    out_axes = attribute(node, "scan_output_axes", None) or [0] * outputs
    out_backward = attribute(node, "scan_output_directions", None) or [0] * outputs
    shapes = [flat.shape(name) for name in scanned]
    if any(s is None for s in shapes) or not shapes[0][axes[0]]:
        raise Stays
    length = shapes[0][axes[0]]
    stacks: list[list[str]] = [[] for _ in range(outputs)]
    for t in range(length):
        at = [flat.constant(np.array(length - 1 - t if b else t, np.int64), "place") for b in backward]
        parts = [flat.emit("Gather", (x, i), "part", axis=a) for x, i, a in zip(scanned, at, axes)]
        results = flat.body(graph, (*state, *parts), scope)
        state = results[: len(state)]
        for stack, part in zip(stacks, results[len(state) :]):
            stack.append(part)
    ordered = [s[::-1] if b else s for s, b in zip(stacks, out_backward)]
    return [*state, *(flat.stacked(s, a, "scan") for s, a in zip(ordered, out_axes))]


def fold_map(flat: Flat, node: onnx.NodeProto, inputs: list[str], scope: Scope) -> list[str]:
    """SequenceMap: the body on the elements of all sequences at one place, together with the tensors given."""
    elements = flat.lists.get(inputs[0])
    if elements is None:
        raise Stays
    rows = [[flat.lists[i][k] if i in flat.lists else i for i in inputs] for k in range(len(elements))]
    results = [flat.body(graphs_in(node)[0], row, scope) for row in rows]
    names = [flat.fresh(name, "#s") if name else "" for name in node.output]
    flat.lists.update((name, [r[k] for r in results]) for k, name in enumerate(names) if name)
    return names


FOLDS = {"If": fold_if, "Loop": fold_loop, "Scan": fold_scan, "SequenceMap": fold_map}
