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
    verify help [COMMAND]            the same as COMMAND --help
    verify version                   the same as --version

Standard output carries the answer and nothing else; everything else goes to standard error. Exit status: 0 with a
verdict, 2 for bad input or usage or where an answer cannot be written, 3 for a bug of ours, and then no verdict. How
the answer comes in time and whole is told in `verifier.guard`, where it goes in `verifier.outputs`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from verifier import __version__, guard, outputs, settings
from verifier.commandline import Parser, nearest, path, refuse_command
from verifier.config import Config
from verifier.events import Deadline, process_start
from verifier.outputs import Output
from verifier.progress import Progress
from verifier.result import InputError, UsageError

BAD_INPUT, BUG = 2, 3
NO_ANSWER = {  # how a run ended without an answer of its own: verdict and reason
    "deadline": ("timeout", "the deadline passed"),
    "terminated": ("timeout", "terminated by a signal"),
    "interrupted": ("unknown", "interrupted"),
    "killed": ("unknown", "the system killed the working process, most likely for lack of memory"),
    "memory": ("unknown", "out of memory"),
}


def main(argv: list[str] | None = None) -> int:
    """The console command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    outputs.open_standard_streams()
    try:
        with outputs.flushed():
            return _command(argv)
    except InputError as e:
        return _complain(e)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        outputs.silence()
        return 0
    except OSError as e:  # a full disk, a device that is gone: nothing that we could mend
        outputs.silence()
        return _complain(outputs.told(e))
    except Exception as e:  # the last resort: our bug, told in one line
        import traceback

        return _confess(guard.one_line(e), traceback.format_exc(), "-v" in argv or "--verbose" in argv)


def _command(argv: list[str]) -> int:
    command = COMMANDS.get(argv[0]) if argv else None
    if command:
        return command(argv[1:])
    if argv:
        refuse_command(argv[0], COMMANDS)
    return run(argv)


def _complain(error: InputError | str) -> int:
    outputs.say(f"verify: error: {_one_line(str(error))}")
    return BAD_INPUT


def _confess(error: str, trace: str, verbose: bool) -> int:
    where = "run again with -v for a traceback"
    if verbose and trace:
        import tempfile

        with tempfile.NamedTemporaryFile("w", prefix="clipbab-", suffix=".log", delete=False) as f:
            f.write(trace)
        where = f"traceback in {f.name}"
    outputs.say(f"verify: internal error: {_one_line(error)} ({where})")
    return BUG


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _run_parser() -> Parser:
    p = Parser(
        prog="verify",
        description="Decides whether an input satisfies the property (sat, with a counterexample) or none does (unsat)",
        epilog="Other commands: verify explain | check | bench | supports | settings | report | view | "
        "tables | help | version, each with --help. "
        f"Presets: {', '.join(settings.presets())}.",
    )
    _add_files(p)
    _add_settings(p)
    _add_limits(p)
    p.add_argument("--cluster", metavar="ADDRESS", help="share the work on a Dask cluster: its address, or local:N")
    what = "write verdict and counterexample to F, as competitions read it; - is standard output"
    p.add_argument("--results-file", metavar="F", type=path, help=what)
    what = "write a record of the run to F; - is standard output, which then gets it in place of the verdict"
    p.add_argument("--json", metavar="F", type=path, help=what)
    what = "end at once when process PID, which started this one, has ended (for scripts)"
    p.add_argument("--end-with", metavar="PID", type=int, help=what)
    p.add_argument("--version", action="version", version=f"clipbab {__version__}")
    return p


def _add_files(p: Parser) -> None:
    p.add_argument("model", metavar="MODEL", type=path, help="ONNX file, plain or .gz")
    p.add_argument("property", metavar="PROPERTY", type=path, help="VNN-LIB file, plain or .gz")


def _add_settings(p: Parser) -> None:
    p.add_argument("--config", metavar="CFG", type=path, help="settings: a YAML file, or the name of a preset")
    p.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting; may be repeated")
    _add_model(p)
    _add_machine(p)


def _add_model(p: Parser) -> None:
    shape = "shape of an input whose dimensions the model's file leaves open, as in x=1,16,4; may be repeated"
    p.add_argument("--input-shape", metavar="INPUT=DIMS", action="append", default=[], help=shape)
    cut = "tensor that is taken for an output of the model, so that what only others need falls away; may be repeated"
    p.add_argument("--output", metavar="NAME", action="append", default=[], help=cut)


def _add_limits(p: Parser) -> None:
    p.add_argument("--timeout", metavar="S", help="seconds from the start of the process until the answer is out")
    p.add_argument("--seed", metavar="N", help="seed of every random choice")


def _add_machine(p: Parser) -> None:
    p.add_argument("--device", metavar="D", help="where to compute: auto, cpu or cuda")
    p.add_argument("--no-cache", action="store_true", help="leave the user's cache folder alone")


def _config(args: argparse.Namespace) -> Config:
    flags = {k: getattr(args, k) for k in ("timeout", "device", "seed") if getattr(args, k, None) is not None}
    given = vars(args)
    words = [*given.get("set", []), *(["branching.cache=false"] if given.get("no_cache") else [])]
    if given.get("input_shape"):
        words.append(f"model.input_shapes={';'.join(args.input_shape)}")
    if given.get("output"):
        words.append(f"model.outputs={','.join(args.output)}")
    return settings.read(given.get("config"), words, flags)


def run(argv: list[str]) -> int:
    """`verify MODEL PROPERTY`: reads the words, lets a child process work, writes the answer."""
    start = process_start()
    with guard.Signals() as signals:  # from here on a signal is answered with a verdict
        args = _run_parser().parse_args(argv)
        config = _config(args)
        if args.end_with is not None:
            if args.end_with != os.getppid():
                raise UsageError(f"--end-with {args.end_with}: this process was started by {os.getppid()}")
            guard.die_with(args.end_with)
        given = (args.model, args.property, args.config or "")
        places = outputs.result_and_record(args.results_file, args.json, given)
        until = start + config.timeout - guard.margin(config.timeout)
        asked = Deadline(until - min(0.2, 0.1 * config.timeout))
        level = 0 if args.quiet else 2 if args.verbose else 1
        try:

            def work(send: guard.Send) -> dict[str, Any]:
                return _work(args, config, asked, Progress(level, start, send))

            return _answer(guard.supervise(work, until, signals), args, places, config, start)
        finally:
            guard.end_children()


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
    except OSError as e:
        return {"end": "error", "error": outputs.told(e)}
    return api.last_words(result)


def _answer(
    ending: guard.Ending,
    args: argparse.Namespace,
    places: tuple[Output | None, Output | None],
    config: Config,
    start: float,
) -> int:
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
    result, record = places
    wrong = [result.write(text)] if result and result.descriptor != outputs.STDOUT else []
    if not (record and record.descriptor == outputs.STDOUT):
        wrong.append(Output("standard output", outputs.STDOUT).write(text))
    if not args.quiet:
        outputs.say(f"[{time.monotonic() - start:8.2f} s] {said['verdict']}: {_one_line(said['reason'])}")
    if record:
        from verifier import record as written

        wrong.append(record.write(written.record(said, args, config, start)))
    wrong = [w for w in wrong if w]
    return _complain("; ".join(wrong)) if wrong else 0


def explain(argv: list[str]) -> int:
    """`verify explain MODEL PROPERTY`"""
    p = Parser(prog="verify explain", description="Says what model and property are, what would be done, and why.")
    _add_files(p)
    _add_settings(p)
    _add_limits(p)
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
    what = "counterexample or result file, plain or .gz; - is standard input"
    p.add_argument("witness", metavar="WITNESS", type=path, help=what)
    _add_settings(p)
    args = p.parse_args(argv)
    config = _config(args)
    from verifier import api
    from verifier.evidence.witness import read

    point = read("/dev/stdin" if args.witness == "-" else args.witness)
    judgement, wrong = api.replay(args.model, args.property, point.x, config)
    print(f"invalid: {wrong}" if wrong else "valid: the property holds at this point")
    if judgement and point.y is not None and not args.quiet and len(point.y) == len(judgement.y):
        off = abs(point.y - judgement.y).max()
        print(f"outputs as stated differ from ONNX Runtime's by at most {off:g}", file=sys.stderr)
    return 1 if wrong else 0


def bench(argv: list[str]) -> int:
    """`verify bench SUITE…`: results into a folder; status 1 if an answer contradicts what a suite expects."""
    from verifier.bench import command

    what = "Runs suites, each instance in a process of its own; goes on with runs that were ended."
    p = Parser(prog="verify bench", description=what)
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
    if not plots.available() and not args.quiet:
        outputs.say("verify: no plots: matplotlib is not installed (pip install 'clipbab[plots]')")
    return 0


def view(argv: list[str]) -> int:
    """`verify view MODEL PROPERTY [WITNESS]`: draws the instance."""
    p = Parser(prog="verify view", description="Draws a property's centre, a counterexample, and the outputs.")
    _add_files(p)
    what = "counterexample or result file, plain or .gz"
    p.add_argument("witness", metavar="WITNESS", type=path, nargs="?", help=what)
    p.add_argument("-o", "--out", metavar="F", required=True, help="the picture: .png, .svg or .pdf")
    _add_model(p)
    args = p.parse_args(argv)
    from verifier.report import view

    for line in view.draw(args.model, args.property, args.witness, args.out, _config(args).model):
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


def show_help(argv: list[str]) -> int:
    """`verify help [COMMAND]`"""
    words = [word for word in argv if not word.startswith("-")][:1]
    if words and words[0] not in COMMANDS:
        raise UsageError(f"{words[0]}: no command{nearest(words[0], COMMANDS)} (see verify --help)")
    return _command([*(w for w in words if w != "help"), "--help"])


def show_version(argv: list[str]) -> int:
    """`verify version`"""
    Parser(prog="verify version", description="Says which version this is.").parse_args(argv)
    print(f"clipbab {__version__}")
    return 0


COMMANDS = {
    "explain": explain,
    "check": check,
    "bench": bench,
    "supports": supports,
    "settings": list_settings,
    "report": report,
    "view": view,
    "tables": tables,
    "help": show_help,
    "version": show_version,
}

if __name__ == "__main__":
    sys.exit(main())
