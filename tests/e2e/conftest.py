"""What the tests with the real command share."""

from collections.abc import Iterator

import pytest
from support import killing


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[killing.ForkServer]:
    """Runs commands at once, some of them killed or refused by the disk; it takes seconds to start."""
    if not killing.POSSIBLE:
        pytest.skip(killing.NEEDS)
    with killing.fork_server(tmp_path_factory.mktemp("forked")) as server:
        yield server
