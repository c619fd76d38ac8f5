"""Fixtures of whole runs, real logins, preparation and many devices: `make test-boards`."""

from __future__ import annotations

from tests.commands import cli, fresh_cli, shared_home
from tests.fleet.fixtures import board, fleet, whole_boards
from tests.fleet.recorded import lab, shared

__all__ = ["board", "cli", "fleet", "fresh_cli", "lab", "shared", "shared_home", "whole_boards"]
