"""Which program: `session` (one per lease), `launch` (one per launch) or `helper`, started by the session."""

import argparse
import os
import sys
from typing import Optional, Sequence

SILENCE_S = 30.0


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the program that the arguments name; the exit status is the program's."""
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    if arguments.program == "launch":
        from . import launch

        launch.main()
    elif arguments.program == "helper":
        from . import prctl

        prctl.die_with_parent(parent=arguments.parent)
        os.execvp(arguments.argv[0], arguments.argv)  # noqa: S606 - no shell is what is wanted
    else:
        from . import session

        session.main(arguments.work, arguments.silence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="probe", description="edgebench's probe: runs on the device")
    programs = parser.add_subparsers(dest="program")
    programs.required = True  # add_subparsers(required=...) came with Python 3.7
    session = programs.add_parser("session", help="requests in, replies out, one JSON object a line")
    session.add_argument("--work", required=True, metavar="DIR", help="the only folder that is written")
    session.add_argument(
        "--silence", type=_seconds, default=SILENCE_S, metavar="S", help="end after S silent seconds"
    )
    programs.add_parser("launch", help="one launch; its task comes as one line on stdin")
    helper = programs.add_parser("helper", help="another program, which dies with the session")
    helper.add_argument("parent", type=int, metavar="PID", help="the session's process")
    helper.add_argument("argv", nargs="+", metavar="ARG", help="the program and its arguments")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError("seconds between 0 and 86400 are wanted")
    return value
