"""The fast reader: files of the two common shapes, tokenised by array operations.

It reads files that consist of `(declare-const VAR Real)`, or `(declare-fun VAR () Real)`, first, then `(assert CMP)`
and `(assert (or (and CMP+)+))`, where CMP is `(<=|>= VAR NUMBER)` or `(<=|>= VAR VAR)`. Anything else makes `read`
return None, and the general reader decides what it means or what is wrong with it; so nothing is ever reported here.

How: the bytes are cut behind closing parentheses into chunks of a few megabytes (no comparison is ever cut, for it has
no inner parentheses). Within a chunk every byte has a class, words are runs of one class, and a word's first byte says
what it can be. A comparison or declaration is found at its head word and its neighbours are checked; it becomes one
letter. The letters of all chunks form a short string, `(AC)(AC)(A(|(&CC)(&C)))`, that is reduced by its three rules.
Right because every word is checked in full: names and keywords byte by byte, numbers by their characters and by
`float`, whose grammar on those characters is that of the number forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from verifier.spec.normal import Atoms, Choice, Parts

CHUNK = 1 << 22
NUMERIC = -(2**31)  # stands for "no variable" on the right of a comparison
COMMENT = re.compile(rb";[^\r\n]*")
FUNCTION = re.compile(rb"\(declare-fun[ \t]+([XY]_[0-9]+)[ \t]+\([ \t]*\)[ \t]+Real[ \t]*\)")  # of no arguments

SPACE, OPEN, CLOSE, WORD = 0, ord("("), ord(")"), ord("w")
NUMBER, VARIABLE, COMPARE, KEYWORD = b"nvck"
KEYWORDS = {b"assert": b"A", b"declare-const": b"d", b"and": b"&", b"or": b"|", b"Real": b"r"}


def _table(entries: dict[bytes, int], rest: int) -> bytes:
    """A translation table of 256 bytes: each byte of a key maps to the key's value, all others to `rest`."""
    table = bytearray([rest]) * 256
    for keys, value in entries.items():
        for key in keys:
            table[key] = value
    return bytes(table)


CLASSES = _table({b" \t\r\n\f\v": SPACE, b"(": OPEN, b")": CLOSE}, WORD)
FIRSTS = np.frombuffer(
    _table({b"0123456789+-.": NUMBER, b"XY": VARIABLE, b"<>": COMPARE, b"adoR": KEYWORD}, 0), dtype=np.uint8
)


@dataclass(frozen=True, eq=False)
class Piece:
    """What one chunk holds: its letters, the declared references, and its C comparisons."""

    letters: bytes
    declared: np.ndarray  # (D,) int64; a reference is i for X_i and ~j for Y_j
    left: np.ndarray  # (C,) int32 reference on the left
    right: np.ndarray  # (C,) int32 reference on the right, or NUMERIC
    number: np.ndarray  # (C,) float64 on the right, 0 where that is a variable
    above: np.ndarray  # (C,) bool: `<=`
    line: np.ndarray  # source line of those comparisons that are not bounds of an input


class _OtherShape(Exception):
    """The file is not of the two shapes."""


def read(data: bytes) -> Parts | None:
    """The parts of a property given as bytes (valid UTF-8), or None where the general reader has to look."""
    if b";" in data:
        data = COMMENT.sub(b"", data)
    if b"(declare-fun" in data:
        data = FUNCTION.sub(rb"(declare-const \1 Real)", data)
    try:
        pieces, line = [], 1
        for chunk in _chunks(data):
            pieces.append(_scan(chunk, line))
            line += chunk.count(b"\n")
        return _parts(pieces)
    except _OtherShape:
        return None


def _chunks(data: bytes) -> Iterator[bytes]:
    """The data in pieces that end behind a closing parenthesis."""
    at = 0
    while at < len(data):
        end = at + CHUNK
        if end < len(data):
            end = data.rfind(b")", at, end) + 1
            _need(end > 0)
        yield data[at:end]
        at = end


def _need(condition: bool) -> None:
    if not condition:
        raise _OtherShape


def _scan(chunk: bytes, line: int) -> Piece:
    """Tokens of a chunk whose first line is number `line`, comparisons and declarations reduced to letters C and D."""
    a = np.frombuffer(chunk, dtype=np.uint8)
    classes = np.frombuffer(chunk.translate(CLASSES), dtype=np.uint8)
    edge = np.diff(np.concatenate([[0], (classes == WORD).view(np.int8), [0]]).astype(np.int8))
    begin, end = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    token = np.flatnonzero((edge[:-1] == 1) | (classes == OPEN) | (classes == CLOSE))
    code = classes[token]  # becomes the letters
    where = np.flatnonzero(code == WORD)  # (W,) token number of each word
    kind = FIRSTS[a[begin]]
    _need(bool(kind.all()))
    _read_keywords(a, begin, end, kind)
    value = _read_numbers(a, begin, end, kind == NUMBER)
    reference = _read_variables(a, begin, end, kind == VARIABLE)
    compare = np.flatnonzero(kind == COMPARE)
    _need(bool(((end - begin)[compare] == 2).all()) and bool((a[begin[compare] + 1] == ord("=")).all()))
    code[where] = kind
    declare = np.flatnonzero(kind == ord("d"))
    keep = np.ones(len(code), dtype=bool)
    _reduce(code, keep, where[compare], (VARIABLE, NUMBER), ord("C"))
    _reduce(code, keep, where[declare], (ord("r"), ord("r")), ord("D"))
    letters = code[keep].tobytes()
    _need(not letters.strip(b"()ACD&|") and not letters.translate(None, b"()ACD&|"))
    left, right = reference[compare + 1], reference[compare + 2]
    plain = np.flatnonzero((left < 0) | (right != NUMERIC))
    newline = np.flatnonzero(a == ord("\n"))
    return Piece(
        letters,
        reference[declare + 1].astype(np.int64),
        left,
        right,
        value[compare + 2],
        a[begin[compare]] == ord("<"),
        line + np.searchsorted(newline, begin[compare[plain]]),
    )


def _read_keywords(a: np.ndarray, begin: np.ndarray, end: np.ndarray, kind: np.ndarray) -> None:
    """Replaces KEYWORD in `kind` by the keyword's own letter; every such word has to be one."""
    for word, letter in KEYWORDS.items():
        found = np.flatnonzero((kind == KEYWORD) & (end - begin == len(word)))
        for offset, byte in enumerate(word):
            found = found[a[begin[found] + offset] == byte]
        kind[found] = letter[0]
    _need(not (kind == KEYWORD).any())


def _read_numbers(a: np.ndarray, begin: np.ndarray, end: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Values of the words where `number` (W,) is set, 0 elsewhere; (W,) float64, finite."""
    step = np.zeros(len(a) + 1, dtype=np.int8)
    step[begin[number]] = 1
    step[end[number]] = -1
    text = np.where(np.cumsum(step[:-1], dtype=np.int8) == 1, a, np.uint8(ord(" "))).tobytes()
    _need(not text.translate(None, b"0123456789+-.eE "))  # leaves out inf, nan and digits joined by underscores
    value = np.zeros(len(begin))
    try:
        value[number] = np.fromiter(map(float, text.split()), dtype=np.float64)
    except ValueError:
        raise _OtherShape from None
    _need(bool(np.isfinite(value).all()))
    return value


def _read_variables(a: np.ndarray, begin: np.ndarray, end: np.ndarray, variable: np.ndarray) -> np.ndarray:
    """References of the words where `variable` (W,) is set, NUMERIC elsewhere; (W,) int32."""
    at, digits = begin[variable], (end - begin)[variable] - 2
    reference = np.full(len(begin), NUMERIC, dtype=np.int32)
    if not len(at):
        return reference
    _need(bool((digits >= 1).all()) and bool((digits <= 9).all()))  # nine digits fit int32
    _need(bool((a[at + 1] == ord("_")).all()) and not ((a[at + 2] == ord("0")) & (digits > 1)).any())
    index = np.zeros(len(at), dtype=np.int32)
    for offset in range(int(digits.max())):
        more = np.flatnonzero(digits > offset)
        byte = a[at[more] + 2 + offset]
        _need(bool((byte >= ord("0")).all()) and bool((byte <= ord("9")).all()))
        index[more] = index[more] * 10 + (byte - ord("0"))
    reference[variable] = np.where(a[at] == ord("X"), index, ~index)
    return reference


def _reduce(code: np.ndarray, keep: np.ndarray, head: np.ndarray, last: tuple[int, int], letter: int) -> None:
    """Checks `( head VARIABLE last )` around every head (token numbers) and leaves only the head, as `letter`."""
    if not len(head):
        return
    _need(bool(head[0] >= 1) and bool(head[-1] + 3 < len(code)))
    _need(bool((code[head - 1] == OPEN).all()) and bool((code[head + 3] == CLOSE).all()))
    _need(bool((code[head + 1] == VARIABLE).all()) and bool(np.isin(code[head + 2], last).all()))
    for offset in (-1, 1, 2, 3):
        keep[head + offset] = False
    code[head] = letter


def _join(pieces: list[Piece], field: str) -> np.ndarray:
    return np.concatenate([getattr(piece, field) for piece in pieces])


def _parts(pieces: list[Piece]) -> Parts:
    """Structure and arrays of the whole file."""
    _need(bool(pieces))
    letters = b"".join(piece.letters for piece in pieces)
    body = letters.lstrip(b"D")
    declared = _join(pieces, "declared")
    n_inputs, n_outputs = int((declared >= 0).sum()), int((declared < 0).sum())
    _need(n_inputs > 0 and n_outputs > 0)
    _need(np.array_equal(np.unique(declared), np.arange(-n_outputs, n_inputs)))
    shape = re.sub(rb"\(\|G+\)", b"F", re.sub(rb"\(&C+\)", b"G", body))
    shape = shape.replace(b"(AC)", b"1").replace(b"(AF)", b"2")
    _need(bool(shape) and not shape.translate(None, b"12"))
    common, choices = _choices(body, np.frombuffer(shape, dtype=np.uint8) == ord("2"))
    return Parts(n_inputs, n_outputs, _atoms(pieces, n_inputs, n_outputs), common, choices)


def _choices(body: bytes, alternatives: np.ndarray) -> tuple[np.ndarray, list[Choice]]:
    """Common atoms and the choices, from the letters and from which asserts (N,) are disjunctions."""
    code = np.frombuffer(body, dtype=np.uint8)
    atom = code == ord("C")
    assertion = np.cumsum(code == ord("A"), dtype=np.int32)[atom] - 1  # (A,) ascending
    group = np.cumsum(code == ord("&"), dtype=np.int32)[atom]
    common, choices = [np.flatnonzero(~alternatives[assertion])], []
    for number in np.flatnonzero(alternatives):
        first, last = np.searchsorted(assertion, [number, number + 1])
        ids = np.arange(first, last)
        start = np.flatnonzero(np.diff(group[first:last], prepend=-1, append=-1))
        if len(start) == 2:
            common.append(ids)  # a single alternative is no choice
        else:
            choices.append((start, ids))
    return np.sort(np.concatenate(common)), choices


def _atoms(pieces: list[Piece], n_inputs: int, n_outputs: int) -> Atoms:
    """The comparisons of all pieces as atoms."""
    left, right, above = _join(pieces, "left"), _join(pieces, "right"), _join(pieces, "above")
    number, line = _join(pieces, "number"), _join(pieces, "line")
    for reference in (left, right[right != NUMERIC]):
        _need(not len(reference) or bool(-n_outputs <= reference.min()) and bool(reference.max() < n_inputs))
    _need(not (left == right).any())
    plain = (left < 0) | (right != NUMERIC)  # not a bound of one input
    row = np.full(len(left), -1, dtype=np.int32)
    row[plain] = np.arange(int(plain.sum()))
    sign = np.where(above[plain], 1.0, -1.0)
    two = right[plain] != NUMERIC
    term_start = np.concatenate([[0], np.cumsum(1 + two)]).astype(np.int64)
    term_var, term_coef = np.empty(term_start[-1], dtype=np.int64), np.empty(term_start[-1])
    first = left[plain].astype(np.int64)
    second = np.where(two, right[plain], 0).astype(np.int64)
    first, second = (np.where(v >= 0, v, n_inputs + ~v) for v in (first, second))
    swap = two & (second < first)  # terms stand in ascending order of their variables
    at = term_start[:-1]
    term_var[at], term_coef[at] = np.where(swap, second, first), np.where(swap, -sign, sign)
    term_var[at[two] + 1], term_coef[at[two] + 1] = np.where(swap, first, second)[two], np.where(swap, sign, -sign)[two]
    return Atoms(
        bound_var=np.where(plain, np.int32(-1), left),
        bound_upper=above,
        bound=number,
        row=row,
        term_start=term_start,
        term_var=term_var,
        term_coef=term_coef,
        const=-sign * number[plain] + 0.0,
        strict=np.zeros(len(sign), dtype=bool),
        line=line.astype(np.int64),
    )
