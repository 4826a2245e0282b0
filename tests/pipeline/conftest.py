"""One rebuild of a very small project, shared by the tests that look at it or go on from it."""

import multiprocessing
import os
import shutil

import preloaded
import pytest
from filelock import FileLock
from made_project import Project


@pytest.fixture(scope="session")
def rebuilt(tmp_path_factory):
    """A copy of the project after its rebuild, which the first of several test processes does for all of them."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "rebuild"  # the processes' folders lie side by side
    with FileLock(f"{shared}.lock"):
        if not (done := shared.with_suffix(".done")).exists():
            shutil.rmtree(shared, ignore_errors=True)
            shared.mkdir()  # in its own place, as MLflow notes where artifacts lie
            first = Project(shared).repro()
            assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-4000:]
            done.touch()
    return Project.of(shared).copy(tmp_path_factory.mktemp("rebuilt") / "project")


@pytest.fixture
def project(rebuilt, tmp_path):
    """A copy of the rebuilt project for a test that edits it."""
    return rebuilt.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def lent():
    """Worker processes of stages that run in the test's own process need not load the libraries."""
    if folder := preloaded.commands():
        multiprocessing.set_executable(str(folder / "python"))
