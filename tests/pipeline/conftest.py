"""One rebuild of a very small project, shared by the tests that look at it or go on from it."""

import pytest
from made_project import Project


@pytest.fixture(scope="session")
def rebuilt(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("rebuild"))
    first = made.repro()
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-4000:]
    return made
