"""Network + Query -> Problem: what the search works on.

A Problem has one network from a flat vector t to a flat vector y, and regions: boxes of t. Coordinates of the input
that are the same single number in every region do not move; they become constants (an `Embed` node puts t among them),
so everything downstream works on the dimensions that move. A region has disjuncts, a disjunct is a set of rows C y +
c0 <= 0. The property is unsatisfiable iff in every region every disjunct has a row that is > 0 over the whole region.
Rows that mention inputs (alone or mixed) are rows over y as well: the inputs they need are appended to y, so the
search never knows of them.

Where every row over an output tensor compares two of its entries, y_i - y_j <= 0, a strictly increasing function at
that output changes nothing and is left out (`without_last_functions`): softmax within one group, and functions of one
number. In floating point softmax may round different logits to equal outputs, so a property may hold there and not for
the logits by less than a rounding; `unsat` is claimed in real arithmetic, and `sat` is replayed on the original file.

Symbols: n inputs of the model, m of them move, p outputs (with appended inputs), R regions, U distinct rows, S most
rows in a region.

Every input has an element type of its own (`verifier.elements`), and so has every coordinate. Fixed coordinates take
it: a fixed 0.1 of a float32 input is the float32 nearest to 0.1, which is what every run of the model receives; rows
that name it read the property's own value. Moving coordinates keep the property's float64 ends; `Problem.received` are
those of what the model may receive. Of an integer or a truth value only whole numbers are inputs: the ends of its boxes
are whole numbers of its type, and a region whose box holds none is empty.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from verifier.elements import element_types, inward, is_whole, nearest, outward
from verifier.net.graph import Network, Node, Tensor
from verifier.result import MismatchError
from verifier.rowtables import Coefficients, distinct_rows, tables
from verifier.spec.contradict import contradicting
from verifier.spec.query import Query


@dataclass(frozen=True)
class Problem:
    """See the file's head. Rows of region r are `coef[row[r, s]] @ y + const[r, s] <= 0` for the s with row[r, s] >=
    0.
    """

    network: Network
    query: Query
    moving: np.ndarray  # (m,) indices into x
    base: np.ndarray  # (n,) float64, the fixed coordinates' values
    lower: np.ndarray  # (R, m) float64
    upper: np.ndarray
    coef: Coefficients  # U rows over p entries
    row: np.ndarray  # (R, S) int64, -1 where the region has fewer rows
    const: np.ndarray  # (R, S) float64
    strict: np.ndarray  # (R, S) bool: < 0 in place of <= 0
    slot: np.ndarray  # (R, S) int64: which of the region's disjuncts the row belongs to
    slots: np.ndarray  # (R,) int64: how many disjuncts the region has
    kinds: tuple[np.dtype, ...] = (np.dtype(np.float64),)  # element types of inputs
    # (m,) int64: which of them a moving coordinate has; broadcasts
    kind: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    # (p,) int64: which of the query's variables (inputs before outputs) the entries of the flat output are
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def whole(self) -> np.ndarray:
        """Which moving coordinates (m,) bool are whole numbers."""
        kind = np.broadcast_to(self.kind, self.lower.shape[1:])
        return np.array([is_whole(k) for k in self.kinds], bool)[kind]

    def received(self) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (R, m) float64 that hold the regions and what the model receives of them, rounded to element types."""
        lower, upper = self.lower.copy(), self.upper.copy()
        kind = np.broadcast_to(self.kind, lower.shape[1:])
        for k, element in enumerate(self.kinds):
            at = np.flatnonzero(kind == k)
            lower[:, at], upper[:, at] = outward(lower[:, at], element, -1), outward(upper[:, at], element, 1)
        return lower, upper

    def only(self, open: np.ndarray) -> Problem:
        """The problem with the disjuncts `open` (R, K) bool alone, the regions that have some, and the entries of the
        output that their rows read.
        """
        kept = np.flatnonzero(open.any(1))
        open, row, slot = open[kept], self.row[kept], self.slot[kept]
        mine = (row >= 0) & np.take_along_axis(open, slot, 1)
        order = np.argsort(~mine, axis=1, kind="stable")[:, : int(mine.sum(1).max(initial=0))]
        picked = lambda t: np.take_along_axis(t, order, 1)
        mine, place = picked(mine), np.cumsum(open, 1) - 1
        used, row = np.unique(picked(row)[mine], return_inverse=True)
        rows = np.full(mine.shape, -1)
        rows[mine] = row.reshape(-1)
        tables = {"const": self.const[kept], "strict": self.strict[kept], "slot": np.take_along_axis(place, slot, 1)}
        coef = self.coef.take(used)
        read, column = np.unique(coef.column, return_inverse=True)
        network, names = self.network, self.names
        if 0 < len(read) < coef.width:
            (end,), names = network.outputs, names[read]
            last = _picked(f"{end.name}/read", end.name, read, end.dtype)
            network = replace(
                network, nodes=(*network.nodes, last), outputs=(Tensor(last.name, last.shape, end.dtype),)
            )
            coef = Coefficients(coef.start, column.reshape(-1), coef.value, len(read))
        return replace(
            self,
            network=network,
            lower=self.lower[kept],
            upper=self.upper[kept],
            coef=coef,
            row=rows,
            slots=open.sum(1),
            names=names,
            **{name: np.where(mine, picked(t), 0).astype(t.dtype) for name, t in tables.items()},
        )

    @property
    def most_moving(self) -> int:
        """How many input dimensions move in any one region at most."""
        return int((self.upper > self.lower).sum(1).max()) if len(self.lower) else 0

    def lift(self, t: np.ndarray) -> np.ndarray:
        """Points (N, m) of the moving coordinates to whole inputs (N, n)."""
        x = np.repeat(self.base[None], len(t), axis=0)
        x[:, self.moving] = t
        return x


def compile_problem(network: Network, query: Query) -> Problem:
    """Raises MismatchError where the property's variables do not fit the model or leave an input unbounded."""
    _check_fit(network, query)
    asked, query = query, query.only(~contradicting(query))
    kinds, kind = element_types(network.inputs)
    ends = inward(query.lower, query.upper, kinds, kind)
    regions = np.unique(query.disjunct_region)  # a region without a disjunct has nothing to satisfy
    regions = regions[~(ends[0] > ends[1]).any(1)[regions]]
    lower, upper = (t[regions] for t in ends)
    moving, base = _moving(lower, upper, kinds, kind)
    named = np.unique(query.term_var[query.term_var < query.n_inputs])
    used = np.intersect1d(named, moving)
    read = np.unique(query.term_var[query.term_var >= query.n_inputs]) - query.n_inputs
    if not len(read) + len(used):  # no row reads anything that is computed
        read = np.arange(min(1, query.n_outputs))
    flat = flatten(without_last_functions(network, query), moving, base, used, read)
    fixed = lower[0] if len(lower) else np.zeros(query.n_inputs)
    names = np.concatenate([query.n_inputs + read, used])
    coef, row_of, const_of = distinct_rows(query, names, fixed)
    rows = tables(query, regions, row_of, const_of)
    ends = lower[:, moving], upper[:, moving]
    return Problem(flat, asked, moving, base, *ends, coef, *rows, kinds, kind[moving], names)


def _check_fit(network: Network, query: Query) -> None:
    for what, have, want, letter in (
        ("inputs", query.n_inputs, network.n_inputs, "X"),
        ("outputs", query.n_outputs, network.n_outputs, "Y"),
    ):
        if have != want:
            shapes = ", ".join(
                f"{t.name} {list(t.shape)}" for t in (network.inputs if letter == "X" else network.outputs)
            )
            raise MismatchError(
                f"{query.source}: declares {have} {what} ({letter}_0 to {letter}_{have - 1}), "
                f"but the model has {want} ({shapes}); "
                "check that property and model belong together"
            )
    loose = query.unbounded()
    if loose:
        some = ", ".join(loose[:5]) + (f" and {len(loose) - 5} more" if len(loose) > 5 else "")
        raise MismatchError(
            f"{query.source}: input without a lower or an upper bound: {some}; bound every input on both sides"
        )


def _moving(
    lower: np.ndarray, upper: np.ndarray, kinds: tuple[np.dtype, ...], kind: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which coordinates move in or between regions, and the values of those that do not, in their own element types."""
    if not len(lower):
        return np.arange(min(1, lower.shape[1])), np.zeros(lower.shape[1])
    base = lower[0].copy()
    for k, element in enumerate(kinds):
        base[kind == k] = nearest(lower[0][kind == k], element)
    moves = np.flatnonzero((lower != lower[0]).any(0) | (upper != lower[0]).any(0))
    if not len(moves):  # a single point: the search still needs a dimension to stand on
        moves = np.arange(1)
    return moves, base


INCREASING = {"Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Softplus", "Softsign", "Atan", "Sinh", "Asinh", "Erf"}
INCREASING_IF = {"LeakyRelu": ("alpha",), "Elu": ("alpha",), "Celu": ("alpha",), "Selu": ("alpha", "gamma")}


def without_last_functions(network: Network, query: Query) -> Network:
    """The network with the softmax or increasing function at an output replaced by a Reshape to its own shape, where
    rows over that output only compare.

    Sound: softmax(x)_i - softmax(x)_j has the sign of x_i - x_j, as both are exp(.) over the same sum, and so has
    f(x_i) - f(x_j) for a strictly increasing f. Where f has no value (Log, Sqrt) no row holds, so rows that are refuted
    on its argument are refuted.
    """
    readers = Counter([i for n in network.nodes for i in n.inputs] + [t.name for t in network.outputs])
    nodes = {n.name: n for n in network.nodes}
    start = query.n_inputs
    for t in network.outputs:
        pairs = _compared(query, start, start + t.size)
        name = t.name
        while pairs is not None and readers[name] == 1 and name in nodes:
            n = nodes[name]
            if n.kind != "Reshape":  # which leaves the flat order alone
                if not _keeps_order(n, pairs):
                    break
                nodes[name] = replace(n, kind="Reshape", inputs=n.inputs[:1], attrs={})
            name = n.inputs[0]
        start += t.size
    return replace(network, nodes=tuple(nodes.values()))


def _compared(query: Query, first: int, last: int) -> np.ndarray | None:
    """Pairs (P, 2) of positions in an output, the variables first..last-1, that rows compare; None where a row says
    anything else of that output.
    """
    row = np.repeat(np.arange(query.n_rows), np.diff(query.term_start))
    mine = (query.term_var >= first) & (query.term_var < last)
    count, own = np.bincount(row, minlength=query.n_rows), np.bincount(row[mine], minlength=query.n_rows)
    rows = np.flatnonzero(own)
    if (count[rows] != 2).any() or (own[rows] != 2).any() or query.const[rows].any():
        return None
    at = query.term_start[rows]
    if (query.term_coef[at] != -query.term_coef[at + 1]).any():
        return None
    return np.unique(np.stack([query.term_var[at], query.term_var[at + 1]], 1) - first, axis=0)


def _keeps_order(n: Node, pairs: np.ndarray) -> bool:
    """Whether n orders the entries of each pair as its input does."""
    if n.kind in ("Softmax", "LogSoftmax"):
        grid = np.arange(int(np.prod(n.shape))).reshape(n.shape)
        group = np.broadcast_to(grid.min(n.attrs["axes"], keepdims=True), n.shape).reshape(-1)
        return bool((group[pairs[:, 0]] == group[pairs[:, 1]]).all())
    return n.kind in INCREASING or (n.kind in INCREASING_IF and all(n.attrs[k] > 0 for k in INCREASING_IF[n.kind]))


def flatten(
    network: Network, moving: np.ndarray, base: np.ndarray, used: np.ndarray, read: np.ndarray | None = None
) -> Network:
    """One flat input t (m,), one flat output (p,): the entries `read` of the model's outputs in order (None: all), then
    the inputs `used`, both by rows. What no row reads is not there: nothing it does can matter.
    """
    dtype = network.dtype
    read = np.arange(network.n_outputs) if read is None else read
    nodes = [Node("//x", "Embed", ("//t", "//base"), base.shape, dtype, {"index": moving})]
    constants = {**network.constants, "//base": base}
    start = 0
    for t in network.inputs:
        cut = {"axes": (0,), "starts": (start,), "ends": (start + t.size,), "steps": (1,)}
        nodes.append(Node(f"//cut:{t.name}", "Slice", ("//x",), (t.size,), dtype, cut))
        nodes += _entry(t, f"//cut:{t.name}", dtype)
        start += t.size
    nodes += network.nodes
    computed = {n.name for n in nodes}
    parts, start = [], 0
    for i, t in enumerate(network.outputs):
        mine = read[(read >= start) & (read < start + t.size)] - start
        start += t.size
        if not len(mine):
            continue
        if t.name in constants and t.name not in computed:
            constants[f"//out:{i}"] = np.asarray(constants[t.name]).reshape(-1)[mine]
        else:
            nodes.append(Node(f"//out:{i}", "Reshape", (t.name,), (t.size,), dtype))
            if len(mine) < t.size:
                nodes[-1] = replace(nodes[-1], name=f"//flat:{i}")
                nodes.append(_picked(f"//out:{i}", f"//flat:{i}", mine, dtype))
        parts.append(f"//out:{i}")
    if len(used):
        nodes.append(_picked("//used", "//x", used, dtype))
        parts.append("//used")
    width = len(read) + len(used)
    if len(parts) > 1:
        nodes.append(Node("//y", "Concat", tuple(parts), (width,), dtype, {"axis": 0}))
    elif parts[0] in constants:  # a model that ignores its input
        nodes.append(Node("//all", "Concat", ("//x", parts[0]), (len(base) + width,), dtype, {"axis": 0}))
        nodes.append(_picked("//y", "//all", len(base) + np.arange(width), dtype))
    else:
        nodes[-1] = replace(nodes[-1], name="//y")
    source = Tensor("//t", moving.shape, dtype)
    return replace(
        network, inputs=(source,), nodes=_needed(nodes), constants=constants, outputs=(Tensor("//y", (width,), dtype),)
    )


def _picked(name: str, source: str, entries: np.ndarray, dtype: np.dtype) -> Node:
    """Some entries of a flat tensor."""
    return Node(name, "Gather", (source,), entries.shape, dtype, {"axis": 0, "indices": entries.astype(np.int64)})


def _entry(t: Tensor, flat: str, dtype: np.dtype) -> list[Node]:
    """The input t from its entries: floats as they are, others as the model's type holds them."""
    if t.dtype.kind == "f":
        return [Node(t.name, "Reshape", (flat,), t.shape, dtype)]
    shaped = Node(f"//shaped:{t.name}", "Reshape", (flat,), t.shape, dtype)
    return [shaped, Node(t.name, "Cast", (shaped.name,), t.shape, t.dtype, {"to": t.dtype.name, "entry": 1})]


def _needed(nodes: list[Node]) -> tuple[Node, ...]:
    """The nodes that the last one depends on, in order."""
    wanted = {nodes[-1].name}
    kept = []
    for node in reversed(nodes):
        if node.name in wanted:
            kept.append(node)
            wanted.update(node.inputs)
    return tuple(reversed(kept))
