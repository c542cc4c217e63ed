"""The command `verify`: words in, one call, an answer out. Imports no torch.

    verify MODEL PROPERTY …          decide the property
    verify explain MODEL PROPERTY    say what both are and what would be done
    verify check MODEL PROPERTY CE   replay a counterexample
    verify bench SUITE …             decide many, each in a process of its own
    verify supports …                say what this build can do
    verify settings                  list what --set and configuration files may set
    verify report DIR …              make a page of the results of runs
    verify view MODEL PROPERTY …     draw an instance, and a counterexample to it
    verify tables …                  list, make and draw tables of split points

Standard output carries the answer and nothing else; everything else goes to standard error. Exit status: 0 with a
verdict, 2 for bad input or usage, 3 for a bug of ours, and then no verdict. How the answer comes in time and whole is
told in `verifier.guard`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from verifier import __version__, guard, settings
from verifier.config import Config
from verifier.events import Deadline, Event, process_start
from verifier.result import FileError, InputError, UsageError

BAD_INPUT, BUG = 2, 3
NO_ANSWER = {  # how a run ended without an answer of its own: verdict and reason
    "deadline": ("timeout", "the deadline passed"),
    "terminated": ("timeout", "terminated by a signal"),
    "interrupted": ("unknown", "interrupted"),
    "killed": ("unknown", "the system killed the working process, most likely for lack of memory"),
    "memory": ("unknown", "out of memory"),
}


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is a UsageError: one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """The console command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(argv[0]) if argv else None
    try:
        return command(argv[1:]) if command else run(argv)
    except InputError as e:
        return _complain(e)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as e:  # the last resort: our bug, told in one line
        import traceback

        return _confess(guard.one_line(e), traceback.format_exc(), "-v" in argv or "--verbose" in argv)


def _complain(error: InputError | str) -> int:
    print(f"verify: error: {_one_line(str(error))}", file=sys.stderr, flush=True)
    return BAD_INPUT


def _confess(error: str, trace: str, verbose: bool) -> int:
    where = "run again with -v for a traceback"
    if verbose and trace:
        import tempfile

        with tempfile.NamedTemporaryFile("w", prefix="clipbab-", suffix=".log", delete=False) as f:
            f.write(trace)
        where = f"traceback in {f.name}"
    print(f"verify: internal error: {_one_line(error)} ({where})", file=sys.stderr, flush=True)
    return BUG


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _run_parser() -> Parser:
    p = Parser(
        prog="verify",
        description="Decides whether an input satisfies the property (sat, with a counterexample) or none does (unsat)",
        epilog="Other commands: verify explain | check | bench | supports | settings | report | view | "
        "tables, each with --help. "
        f"Presets: {', '.join(settings.presets())}.",
        allow_abbrev=False,
    )
    _add_files(p)
    _add_settings(p)
    p.add_argument("--timeout", metavar="S", help="seconds from the start of the process until the answer is out")
    p.add_argument("--seed", metavar="N", help="seed of every random choice")
    p.add_argument("--cluster", metavar="ADDRESS", help="share the work on a Dask cluster: its address, or local:N")
    p.add_argument("--results-file", metavar="F", help="write verdict and counterexample to F, as competitions read it")
    p.add_argument("--json", metavar="F", help="write a record of the run to F")
    loud = p.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error")
    loud.add_argument("-v", "--verbose", action="store_true", help="more progress; tracebacks of our bugs in a file")
    p.add_argument("--version", action="version", version=f"clipbab {__version__}")
    return p


def _add_files(p: Parser) -> None:
    p.add_argument("model", metavar="MODEL", help="ONNX file, plain or .gz")
    p.add_argument("property", metavar="PROPERTY", help="VNN-LIB file, plain or .gz")


def _add_settings(p: Parser) -> None:
    p.add_argument("--config", metavar="CFG", help="settings: a YAML file, or the name of a preset")
    p.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting; may be repeated")
    _add_machine(p)


def _add_machine(p: Parser) -> None:
    p.add_argument("--device", metavar="D", help="where to compute: auto, cpu or cuda")
    p.add_argument("--no-cache", action="store_true", help="leave the user's cache folder alone")


def _config(args: argparse.Namespace) -> Config:
    flags = {k: getattr(args, k) for k in ("timeout", "device", "seed") if getattr(args, k, None) is not None}
    words = [*args.set, *(["branching.cache=false"] if args.no_cache else [])]
    return settings.read(args.config, words, flags)


def run(argv: list[str]) -> int:
    """`verify MODEL PROPERTY`: reads the words, lets a child process work, writes the answer."""
    start = process_start()
    with guard.Signals() as signals:  # from here on a signal is answered with a verdict
        args = _run_parser().parse_args(argv)
        config = _config(args)
        for path in filter(None, (args.results_file, args.json)):
            _clear(path, (args.model, args.property))
        until = start + config.timeout - guard.margin(config.timeout)
        asked = Deadline(until - min(0.2, 0.1 * config.timeout))
        level = 0 if args.quiet else 2 if args.verbose else 1
        try:

            def work(send: guard.Send) -> dict[str, Any]:
                return _work(args, config, asked, Progress(level, start, send))

            return _answer(guard.supervise(work, until, signals), args, config, start)
        finally:
            guard.end_children()


def _clear(path: str, inputs: tuple[str, str]) -> None:
    """Makes sure that a result can be written there, and that an older run's is not taken for this one's."""
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise UsageError(f"{path}: is a folder; name a file for the result")
    if not place.parent.is_dir():
        raise UsageError(f"{path}: the folder {place.parent} does not exist")
    for given in inputs:
        if os.path.realpath(given) == str(place):
            raise UsageError(f"{path}: is the model or the property; name another file for the result")
    try:
        if place.is_file():
            place.unlink()
        elif not place.exists() and not os.access(place.parent, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as e:
        raise FileError(f"{path}: cannot be written: {e.strerror}") from None


def _work(args: argparse.Namespace, config: Config, deadline: Deadline, progress: Progress) -> dict[str, Any]:
    """In the child: the run itself; its last words for the parent."""
    try:
        from verifier import api

        if args.cluster:
            from verifier.bench.cubes import conquer

            return conquer(args.cluster, args.model, args.property, config, progress, deadline)
        result = api.verify(args.model, args.property, config, progress, deadline)
    except InputError as e:
        return {"end": "error", "error": str(e)}
    return api.last_words(result)


class Progress:
    """Events to lines on standard error, and to notes for the parent, which tells of them if the child cannot.

    Level 1 prints what is new, and what repeats every two seconds; level 2 prints everything.
    """

    EVERY = 2.0

    def __init__(self, level: int, start: float, send: guard.Send):
        self.level, self.start, self.send = level, start, send
        self.printed: dict[str, float] = {}
        self.noted = float("-inf")

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.stage == "plan":
            self.send({"plan": list(event.figures["lines"]), "device": event.figures["device"]})
            for line in event.figures["lines"] if self.level > 1 else ():
                self._print(now, f"plan: {line}")
            return
        if now - self.noted > 0.2:
            self.noted = now
            self.send({"stage": event.stage, "stats": dict(event.figures)})
        key = f"{event.stage} {event.text}"
        if self.level > 1 or (self.level and now - self.printed.get(key, float("-inf")) > self.EVERY):
            self.printed[key] = now
            figures = "".join(f"  {k}={_short(v)}" for k, v in event.figures.items())
            self._print(now, f"{event.stage}: {event.text}{figures}")

    def _print(self, now: float, text: str) -> None:
        with contextlib.suppress(OSError):
            print(f"[{now - self.start:8.2f} s] {text}", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _answer(ending: guard.Ending, args: argparse.Namespace, config: Config, start: float) -> int:
    """Writes what the run came to: result file, standard output, record, in the order of what must not be lost."""
    said = dict(ending.said)
    if ending.how == "error":
        return _complain(said["error"])
    if ending.how == "bug":
        return _confess(said.get("error", "no answer"), said.get("traceback", ""), args.verbose)
    if ending.how != "answer":
        said["verdict"], reason = NO_ANSWER[ending.how]
        said["reason"] = reason + (f" (stage: {said['stage']})" if said.get("stage") else "")
    text = said["verdict"] + "\n" + (said["witness"] + "\n" if said.get("witness") else "")
    trouble = _write(args.results_file, text)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text)
        sys.stdout.flush()
    if not args.quiet:
        wall = time.monotonic() - start
        print(f"[{wall:8.2f} s] {said['verdict']}: {_one_line(said['reason'])}", file=sys.stderr, flush=True)
    if args.json:
        trouble = _write(args.json, _record(said, args, config, start)) or trouble
    return _complain(trouble) if trouble else 0


def _write(path: str | None, text: str) -> str:
    """Writes the file; says what went wrong, if anything."""
    try:
        if path:
            guard.write_whole(path, text)
    except OSError as e:
        return f"{path}: cannot be written: {e.strerror}"
    return ""


def _record(said: dict[str, Any], args: argparse.Namespace, config: Config, start: float) -> str:
    import json

    record = {
        "verdict": said["verdict"],
        "reason": said["reason"],
        "model": os.path.abspath(args.model),
        "property": os.path.abspath(args.property),
        "wall_seconds": time.monotonic() - start,
        "seconds": said.get("seconds", {}),
        "stats": said.get("stats", {}),
        "plan": said.get("plan", []),
        "device": said.get("device", config.device),
        "seed": config.seed,
        "config": settings.as_dict(config),
        "versions": versions(),
        "counterexample": said.get("witness") or None,
    }
    return json.dumps(record, indent=1) + "\n"


def versions() -> dict[str, Any]:
    """Of everything that an answer depends on; reads package records, imports none of the packages."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"clipbab": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "onnx", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def explain(argv: list[str]) -> int:
    """`verify explain MODEL PROPERTY`"""
    p = Parser(prog="verify explain", description="Says what model and property are, what would be done, and why.")
    _add_files(p)
    _add_settings(p)
    args = p.parse_args(argv)
    config = _config(args)
    from verifier.explain import lines

    for line in lines(args.model, args.property, config):
        print(line, flush=True)
    return 0


def check(argv: list[str]) -> int:
    """`verify check MODEL PROPERTY WITNESS`: prints valid or invalid; status 1 for invalid."""
    p = Parser(prog="verify check", description="Replays a counterexample in ONNX Runtime on the model's own file.")
    _add_files(p)
    p.add_argument("witness", metavar="WITNESS", help="counterexample or result file, plain or .gz")
    args = p.parse_args(argv)
    from verifier import api
    from verifier.evidence.witness import read

    point = read(args.witness)
    query, judgement, wrong = api.replay(args.model, args.property, point.x)
    print(f"invalid: {wrong}" if wrong else f"valid: disjunct {judgement.disjunct + 1} of {query.n_disjuncts} holds")
    if judgement and point.y is not None and len(point.y) == len(judgement.y):
        off = abs(point.y - judgement.y).max()
        print(f"outputs as stated differ from ONNX Runtime's by at most {off:g}", file=sys.stderr)
    return 1 if wrong else 0


def bench(argv: list[str]) -> int:
    """`verify bench SUITE…`: results into a folder; status 1 if an answer contradicts what a suite expects."""
    from verifier.bench import command

    what = "Runs suites, each instance in a process of its own; goes on with runs that were ended."
    p = Parser(prog="verify bench", description=what, allow_abbrev=False)
    command.add_words(p)
    _add_settings(p)
    args = p.parse_args(argv)
    return command.run(args, _config(args), argv)


def supports(argv: list[str]) -> int:
    """`verify supports`: what this build can do, one thing a line."""
    p = Parser(prog="verify supports", description="Says what this build can do.")
    one = p.add_mutually_exclusive_group(required=True)
    what = "the ONNX operators that models may use, and whether they have bounds"
    one.add_argument("--onnx-operators", action="store_true", help=what)
    one.add_argument("--name", action="store_true")
    one.add_argument("--version", action="store_true")
    args = p.parse_args(argv)
    if args.onnx_operators:
        from verifier.explain import support

        found = sorted((op, word) for word, ops in support().items() for op in ops)
        width = max(len(op) for op, _ in found)
        print("\n".join(f"{op:<{width}}  {word}" for op, word in found))
    else:
        print("clipbab" if args.name else __version__)
    return 0


def list_settings(argv: list[str]) -> int:
    """`verify settings`: the table of settings."""
    Parser(prog="verify settings", description="Lists the settings; the bold ones are the basic ones.").parse_args(argv)
    print(settings.table())
    return 0


def report(argv: list[str]) -> int:
    """`verify report DIR…`: writes a page and plots; prints the table by benchmark."""
    p = Parser(prog="verify report", description="Makes a page of the results of runs; the first is reported on.")
    p.add_argument("runs", metavar="DIR", nargs="+", help="folder with results.jsonl, or a results file")
    p.add_argument("-o", "--out", metavar="F", help="the page, a folder of plots beside it (default: DIR/report.html)")
    known = "answers published: a results.csv or instances.csv, or a folder of such; may be repeated"
    p.add_argument("--published", metavar="PATH", action="append", default=[], help=known)
    drawn = "instance whose bounds are drawn over time (default: those that took longest); may be repeated"
    p.add_argument("--bounds", metavar="SUITE/INDEX", action="append", default=[], help=drawn)
    args = p.parse_args(argv)
    from verifier.report import plots, write

    made = write.read(args.runs, args.published, args.bounds)
    first = Path(args.runs[0])
    out = args.out or (first if first.is_dir() else first.parent) / "report.html"
    written = write.write(made, out)
    print("\n".join([*write.summary(made), f"written: {written[0]}"]))
    if len(written) > 1:
        print(f"         {written[1].parent}/ ({len(written) - 1} files)")
    if not plots.available():
        print("verify: no plots: matplotlib is not installed (pip install 'clipbab[plots]')", file=sys.stderr)
    return 0


def view(argv: list[str]) -> int:
    """`verify view MODEL PROPERTY [WITNESS]`: draws the instance."""
    p = Parser(prog="verify view", description="Draws a property's centre, a counterexample, and the outputs.")
    _add_files(p)
    p.add_argument("witness", metavar="WITNESS", nargs="?", help="counterexample or result file, plain or .gz")
    p.add_argument("-o", "--out", metavar="F", required=True, help="the picture: .png, .svg or .pdf")
    args = p.parse_args(argv)
    from verifier.report import view

    for line in view.draw(args.model, args.property, args.witness, args.out):
        print(line)
    return 0


def tables(argv: list[str]) -> int:
    """`verify tables [TABLE…]`: lists tables of split points; makes and draws them."""
    p = Parser(prog="verify tables", description="Lists the tables of split points, and where each comes from.")
    _add_machine(p)
    p.set_defaults(config=None, set=[])
    from verifier.branching import command
    from verifier.branching.store import Store
    from verifier.search.strategy import pick_device

    command.add_words(p)
    args = p.parse_args(argv)
    config = _config(args)
    return command.run(args, Store.of_user() if config.branching.cache else Store(), pick_device(config))


COMMANDS = {
    "explain": explain,
    "check": check,
    "bench": bench,
    "supports": supports,
    "settings": list_settings,
    "report": report,
    "view": view,
    "tables": tables,
}

if __name__ == "__main__":
    sys.exit(main())
