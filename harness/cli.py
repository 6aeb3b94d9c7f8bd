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
