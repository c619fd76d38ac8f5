"""These tests need PyTorch, which `make test` does not install: they run in `make test-training`, and fail
there if it is missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only where this folder is asked for."""
    asked_for = any("compress/training" in argument for argument in config.args)
    return True if collection_path.name.startswith("test_") and not asked_for else None
