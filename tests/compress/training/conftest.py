"""These tests need PyTorch, which `make test` does not install: they run in `make test-training`, and fail
there if it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks are slower on two threads than on one, and many times slower where others work, too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
