"""Fixtures of the runtime's tests."""

from __future__ import annotations

import pytest

from modelguard import Samples


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two workers test at once, and sums come out the same."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def held_out() -> Samples:
    """Digits that :func:`~modelguard_runtime.testing.digits_module` was not trained on."""
    from modelguard_runtime.testing import digits

    return digits()[1]
