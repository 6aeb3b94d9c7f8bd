"""The command line: parses, calls a stage, turns errors into exit codes. The only module that prints."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import Exit, NotRestored, SquallError

EPILOG = """\
exit codes: 0 pass; 1 broken invariant, failed gate or regression; 2 usage or scenario error;
  3 inconclusive; 4 invalid run, with the reason; 5 host not as it was, with the commands to finish;
  130 interrupted and cleaned up.

first steps:
  squall doctor                                     what this machine can do
  squall plan configs/scenarios/quickstart.yaml     what would happen, changing nothing
  squall run  configs/scenarios/quickstart.yaml     do it, prove it, judge it
"""


def parser() -> argparse.ArgumentParser:
    """All commands and their help."""
    top = argparse.ArgumentParser(
        prog="squall",
        description="Load and chaos for LLM inference serving: send streams, break the system on purpose, "
        "prove that it broke and healed, judge what users lost.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    def scenario(to: argparse.ArgumentParser) -> None:
        to.add_argument("scenario", metavar="SCENARIO", type=Path, help="a YAML file, see configs/scenarios/")
        to.add_argument(
            "--set", metavar="K=V", action="append", default=[], dest="overrides",
            help="override a value by its dotted path, a YAML value: --set sut.migration_limit=0",
        )  # fmt: skip
        to.add_argument("--seed", type=int, help="another seed: other prompts, other victims")

    one = add(
        "run", "start the system, load it, break it, judge it",
        "examples:\n  squall run configs/scenarios/quickstart.yaml\n"
        "  squall run configs/scenarios/quickstart.yaml --set load.duration_s=20 --seed 7\n"
        "Everything lands in runs/<run_id>; runs/latest points at the newest.",
    )  # fmt: skip
    scenario(one)
    one.add_argument("--out", type=Path, metavar="DIR", help="run directory, must be new or empty")
    one.add_argument("--baseline", type=Path, metavar="DIR", help="show differences to this run; never gates")

    one = add(
        "ab", "compare two systems by interleaved pairs of runs, as many as it takes",
        "SUT is a Dynamo version (1.6.1), a *.yaml file whose mapping is merged over the scenario's `sut:`,\n"
        "a URL, or `baseline` (see `squall baseline`). Killed or interrupted, the same command with the same\n"
        "--out goes on with the next pair.\n\n"
        "examples:\n  squall ab configs/scenarios/nightly.yaml --a 1.4.2 --b 1.6.1\n"
        "  squall ab configs/scenarios/nightly.yaml --a 1.6.1 --b slower-router.yaml --pairs 5 --out night",
    )  # fmt: skip
    one.add_argument("scenario", metavar="SCENARIO", type=Path, help="a YAML file, see configs/scenarios/")
    one.add_argument("--a", required=True, metavar="SUT", help="the baseline")
    one.add_argument("--b", required=True, metavar="SUT", help="the candidate")
    one.add_argument(
        "--set", metavar="K=V", action="append", default=[], dest="overrides",
        help="override a value of the scenario, for both arms: --set load.duration_s=30",
    )  # fmt: skip
    one.add_argument(
        "--pairs", default="auto", metavar="auto|N", help="auto: looks at 3, 5, 7 and 10 pairs; N: one look"
    )
    one.add_argument(
        "--out", type=Path, metavar="DIR", help="of the experiment: new, empty, or one to go on with"
    )
    one.add_argument(
        "--archive", type=Path, metavar="FILE", help="archive of noise; else the one under runs/"
    )
    one.add_argument(
        "--strict", action="store_true", help="exit code 1 instead of 3 when it stays inconclusive"
    )

    one = add(
        "compare", "judge pairs of runs from their files alone",
        "Paths are run directories, or directories that hold them, such as an experiment of `squall ab`.",
    )  # fmt: skip
    one.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="runs or experiments")
    one.add_argument("--archive", type=Path, metavar="FILE", help="archive of noise to hold them against")
    one.add_argument("--json", type=Path, metavar="FILE", help="write verdict.json there")

    one = add(
        "convert", "write a run as another tool's files, or make a run of them",
        "examples:\n  squall convert runs/latest --to aiperf\n"
        "  squall convert artifacts/profile_export.jsonl --from aiperf --out runs/theirs",
    )  # fmt: skip
    one.add_argument("path", metavar="PATH", type=Path, help="a run directory, or a file of the other tool")
    one.add_argument(
        "--to", choices=["aiperf"], help="write profile_export.jsonl, CSV and JSON as AIPerf does"
    )
    one.add_argument(
        "--from", choices=["aiperf"], dest="from_", help="read a profile_export.jsonl into a run directory"
    )
    one.add_argument("--out", type=Path, metavar="DIR", help="where to; with --to by default RUN/aiperf")

    one = add(
        "baseline", "accept the candidate of an experiment as the new baseline, or show who accepted what"
    )
    of = one.add_subparsers(dest="action", metavar="accept|show", required=True)
    accept = of.add_parser("accept", help="from now on `--a baseline` means this experiment's candidate")
    accept.add_argument(
        "experiment", type=Path, metavar="EXPERIMENT", help="directory of a finished `squall ab`"
    )
    accept.add_argument(
        "--why", required=True, metavar="TEXT", help="kept beside it for those who come after"
    )
    accept.add_argument("--who", metavar="NAME", help="else the name of the user")
    known = of.add_parser("show", help="every acceptance, the newest last")
    known.add_argument("scenario", nargs="?", metavar="NAME", help="only of this scenario")

    one = add(
        "history", "a page with every night's ratio to a pinned version, and where it changed",
        "Paths are directories of experiments, or directories that hold them (default: where runs land). It\n"
        "gates nothing: it finds the slow creep that stays below each night's margin.",
    )  # fmt: skip
    one.add_argument("paths", nargs="*", type=Path, metavar="DIR", help="experiments, or what holds them")
    one.add_argument("--scenario", metavar="NAME", help="only experiments of this scenario")
    one.add_argument("--against", metavar="SUT", help="only those whose --a was this")
    one.add_argument("--out", type=Path, metavar="FILE", help="the page; else history.html where runs land")
    one.add_argument(
        "--no-changes", action="store_true", help="don't look for changes (needs no Apache Otava)"
    )

    one = add(
        "up", "start the system of a scenario and leave it running",
        "It prints the `locust` command that attaches to it, web UI included. `squall down` ends it.",
    )  # fmt: skip
    scenario(one)
    one.add_argument("--out", type=Path, metavar="DIR", help="run directory, must be new or empty")

    one = add("down", "stop a system that `squall up` started")
    one.add_argument("run", nargs="?", type=Path, metavar="RUN", help="its run directory; without: every one")

    one = add("plan", "show what a scenario would do, changing nothing")
    scenario(one)
    one.add_argument("--json", action="store_true", help="canonical bytes: equal for equal scenario and seed")

    one = add("recover", "undo what a run that died left behind; safe to repeat")
    one.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="a run directory; without: every unfinished one"
    )

    one = add("report", "judge a run again from its files and write its reports")
    one.add_argument("run", type=Path, metavar="RUN", help="a run directory, such as runs/latest")
    one.add_argument("--baseline", type=Path, metavar="DIR", help="show differences to this run; never gates")

    add("doctor", "say what this machine can do, and what to install for the rest")
    one = add("faults", "list the faults with their parameters and proofs")
    one.add_argument("name", nargs="?", help="only this one")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code of DESIGN section 5."""
    args = parser().parse_args(argv)
    try:
        return dispatch(args)
    except NotRestored as error:
        print(f"squall: not restored: {error}", file=sys.stderr)
        return int(error.exit_code)
    except SquallError as error:
        print(f"squall: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("squall: interrupted", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        return int(Exit.USAGE)
    except Exception:  # noqa: BLE001 - the edge: a bug of ours must never read as a verdict (exit code 1)
        traceback.print_exc()
        print("squall: this is a bug in squall; nothing was judged", file=sys.stderr)
        return int(Exit.INVALID)


def dispatch(args: argparse.Namespace) -> int:
    """Call the stage. Imports are local: `squall plan` must not pay for pandas."""
    from harness import stages

    for line in stages.unfinished_notice():
        print(line, file=sys.stderr)
    if args.command == "run":
        return stages.run(args.scenario, args.overrides, args.seed, args.out, args.baseline, print)
    if args.command == "ab":
        from harness import ab

        return ab.ab(
            args.scenario,
            args.a,
            args.b,
            args.overrides,
            args.pairs,
            args.out,
            args.archive,
            args.strict,
            print,
        )
    if args.command == "compare":
        from harness import comparing

        return comparing.compare(args.paths, args.archive, args.json, print)
    if args.command == "convert":
        from harness import convert

        return convert.convert(args.path, args.to, args.from_, args.out, print)
    if args.command == "baseline":
        from harness import baseline

        if args.action == "accept":
            return baseline.accept(stages.runs_dir(), args.experiment, args.who, args.why, print)
        return baseline.show(stages.runs_dir(), args.scenario, print)
    if args.command == "history":
        from harness import history

        paths, page = args.paths or [stages.runs_dir()], args.out or stages.runs_dir() / "history.html"
        return history.history(paths, args.scenario, args.against, page, not args.no_changes, print)
    if args.command == "up":
        return stages.up(args.scenario, args.overrides, args.seed, args.out, print)
    if args.command == "down":
        return stages.down(args.run, print)
    if args.command == "plan":
        return stages.plan(args.scenario, args.overrides, args.seed, args.json, print)
    if args.command == "recover":
        return stages.recover(args.run, print)
    if args.command == "report":
        return stages.report(args.run, args.baseline, print)
    if args.command == "doctor":
        from harness import doctor

        return doctor.show(print)
    from harness import catalogue

    return catalogue.show(args.name, print)


if __name__ == "__main__":
    sys.exit(main())
