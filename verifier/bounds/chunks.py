"""Bounding many domains: the batch is cut into chunks whose working set fits the machine, the method runs on each.

On a CPU a chunk's coefficients should stay in the cache: past it every pass over them waits for memory. On a GPU a
chunk should be as large as memory allows, since each kernel costs a launch. When memory runs out all the same, the
chunk is halved and the work goes on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds import METHODS
from verifier.bounds.base import NOTHING, Given, RowBounds, moving
from verifier.bounds.program import Program
from verifier.bounds.targets import RowTable

# One coefficient tensor of a chunk on a CPU; measured best between 2 and 8 MiB on cores with 1-2 MiB of L2.
CACHE_BYTES = 4 << 20
# Fewer domains than so many cost little less, as most of the time is the operations' own: they go together past the
# cache too, while a tensor of all rows stays below so many bytes. Measured 3 to 20 times faster than one at a time.
FEW, FEW_BYTES = 16, 96 << 20
ROW_BYTES = 64 << 20  # one coefficient tensor of a single domain on a CPU, where rows do not fit the cache anyway
LEAST_ROW_BYTES = 1 << 20  # where cutting rows further would save nothing that matters

DENSE_BYTES = 256 << 20  # of the rows of a domain that are bounded in one go

MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory")  # how torch says it on a CPU

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt

OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # its name before torch 2.5


class Limits(NamedTuple):
    """How many bytes one coefficient tensor may have: `chunk` decides how many domains go together, up to `FEW` of them
    `few`; `rows` how rows of one chunk are cut.
    """

    chunk: int
    rows: int
    few: int = 0


def limits(device: torch.device, chunk_mib: float = 0.0) -> Limits:
    """Limits for a device, or from a setting in MiB for the whole working set (about six tensors)."""
    if chunk_mib:
        one = max(1, int(chunk_mib * 2**20 / 6))
        return Limits(one, max(one, ROW_BYTES if device.type == "cpu" else one))
    if device.type == "cpu":
        return Limits(CACHE_BYTES, ROW_BYTES, FEW_BYTES)
    free, _ = torch.cuda.mem_get_info(device)
    return Limits(free // 16, free // 16)


def keep_freed_memory() -> None:
    """Asks glibc to keep freed blocks of up to 32 MiB instead of returning them to the system after every operation.

    Otherwise each temporary of a few MiB is mapped and faulted in anew, which costs a backward pass half of its time.
    A hint to the whole process, without effect on results or under other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 32 << 20)
    mallopt(M_TRIM_THRESHOLD, 1 << 30)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or on the CPU (where torch raises a plain RuntimeError)."""
    return isinstance(error, (MemoryError, OUT_OF_MEMORY)) or any(word in str(error).lower() for word in MEMORY_WORDS)


def bound_rows(
    program: Program,
    l: Tensor,
    u: Tensor,
    coef: Tensor | RowTable,
    row: Tensor,
    method: str,
    limit: Limits | None = None,
    given: Given = NOTHING,
) -> RowBounds:
    """Bounds of rows coef[row] over boxes l, u (D, m) by a registered method, in chunks; coef (U, p), row (D, S).
    `given`: what is known of the domains besides; with a `fine` program coef is in float64.

    See `RowBounds`. Raises the device's out-of-memory error only when a few rows of a single domain do not fit.
    """
    limit = limit or limits(l.device)
    most = max(1, DENSE_BYTES // max(1, coef.shape[1] * l.element_size()))
    if row.shape[1] > most:  # so many rows over so many outputs are not made dense together
        parts = [bound_rows(program, l, u, coef, part, method, limit, given) for part in row.split(most, 1)]
        return RowBounds(*(torch.cat(t, 1) for t in zip(*parts)))
    run, entries = METHODS[method].run, METHODS[method].entries

    def one(cut: slice, row_bytes: int = limit.rows) -> RowBounds:
        return run(program, l[cut], u[cut], coef[row[cut]], row_bytes, given.at(cut))

    bytes_each = entries(program, row.shape[1], moving(l, u), given.still) * l.element_size()
    bytes_each = max(1, bytes_each)
    chunk = max(1, min(len(l), max(limit.chunk // bytes_each, min(FEW, limit.few // bytes_each))))
    threads = torch.get_num_threads() if l.device.type == "cpu" else 1
    if threads > 1 and len(l) >= 2 * threads:
        chunk = min(chunk, -(-len(l) // threads))
        try:
            return join(list(workers(threads).map(one, [slice(at, at + chunk) for at in range(0, len(l), chunk)])))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
    return _one_after_another(one, len(l), chunk, limit, l.device)


def _one_after_another(
    one: Callable[[slice, int], RowBounds], count: int, chunk: int, limit: Limits, device: torch.device
) -> RowBounds:
    """All chunks in turn; whenever memory runs out, chunks and row blocks are halved from there on."""
    parts, at, row_bytes = [], 0, limit.rows
    while at < count:
        try:
            parts.append(one(slice(at, at + chunk), row_bytes))
            at += chunk
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or (chunk == 1 and row_bytes <= LEAST_ROW_BYTES):
                raise
            chunk, row_bytes = max(1, chunk // 2), row_bytes // 2
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return join(parts)


def join(parts: list[RowBounds]) -> RowBounds:
    """Bounds of one chunk of domains after the other."""
    return parts[0] if len(parts) == 1 else RowBounds(*(torch.cat(t) for t in zip(*parts)))


def side_by_side(work: list[Callable[[], Tensor]], device: torch.device) -> list[Tensor]:
    """Results of independent pieces of work, on a CPU by as many threads as torch may use, each computing alone.

    On a thread that is itself one of those, and on other devices, one after another.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1 or len(work) < 2:
        return [piece() for piece in work]
    return list(workers(threads).map(lambda piece: piece(), work))


def alone(piece: Callable[[], Tensor], device: torch.device) -> Tensor:
    """The result of a small piece of work, on a CPU by one of the threads of `side_by_side`: threads that wait for each
    other within every operation make it several times slower, on a busy machine by far.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return piece() if threads == 1 else workers(threads).submit(piece).result()


@cache
def workers(count: int) -> ThreadPoolExecutor:
    """Threads that take a chunk each; inside, torch computes on that thread alone.

    Chunks are independent, so nobody waits for anybody, where threads inside one operation meet at a barrier after
    every one of them: with 50-wide layers that is every few dozen microseconds. Torch lets go of the interpreter's
    lock while it computes.
    """
    return ThreadPoolExecutor(count, "bounds", initializer=torch.set_num_threads, initargs=(1,))
