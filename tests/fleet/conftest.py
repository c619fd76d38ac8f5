"""Fixtures of the fleet tests."""

from tests.commands import cli, fresh_cli, shared_home
from tests.fleet.fixtures import board, fleet

__all__ = ["board", "cli", "fleet", "fresh_cli", "shared_home"]
