"""What tests of the way out share: a proxy with a network of its own, and a server to reach through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from egress_harness import Origin, World


@pytest.fixture
def net() -> Iterator[World]:
    from egress_harness import world  # here, for most tests of this folder do without it

    with world() as found:
        yield found


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A server on the loopback interface that answers every request."""
    from egress_harness import Origin

    with Origin() as found:
        yield found
