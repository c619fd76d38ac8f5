"""`edgebench replay`: the verdict of a bundle, recomputed from the bundle alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from edgebench.cli.output import emit_json, json_option, note
from edgebench.cli.verdicts import exit_code, print_gate
from edgebench.errors import UserError
from edgebench.evidence import MAX_BYTES, unpack
from edgebench.evidence import replay as replayed
from edgebench.gates.document import document


@click.command()
@click.argument("bundle", metavar="FILE.zip", type=click.Path())
@json_option
def replay(bundle: str, as_json: bool) -> int:
    """Judge again from what `edgebench gate --bundle FILE.zip` wrote, without devices and without a store.

    The exit code is the gate's own where the verdict is the stored one. A bundle that was changed, or gives
    another verdict, is a mistake: exit code 2, and the first cell that differs.
    """
    data = _read(Path(bundle))
    found = unpack(data, bundle)
    judged = replayed(found, bundle)
    question, digest = found.evidence.question, hashlib.sha256(data).hexdigest()
    if as_json:
        emit_json(
            {
                "schema": 1,
                "identical": True,
                "sha256": digest,
                "day": question.day,
                "edgebench": found.edgebench,
                "gate": document(judged),
            }
        )
    else:
        print_gate(judged)
        note(f"identical to the verdict of {question.day} by edgebench {found.edgebench}; sha256 {digest}")
    return exit_code(judged, question.inconclusive)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UserError(
                f"there is no file {path}", hint="edgebench gate RUN --bundle FILE.zip writes one"
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", hint="give another file") from error
