"""Fixtures of the fleet tests."""

from tests.commands import cli, fresh_cli, shared_home
from tests.fleet.fixtures import board, fleet
from tests.fleet.recorded import lab, shared

__all__ = ["board", "cli", "fleet", "fresh_cli", "lab", "shared", "shared_home"]
