"""What all tests share."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see pipeline/stages/__init__.py

import pytest  # noqa: E402

FIRST = ("test_flows.py", "test_rebuild.py")  # they take longest, and each makes the project that it looks at


def pytest_collection_modifyitems(items):
    """With two processes, each begins with one of the longest files."""
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """Folder of a small model of audio and text."""
    from made_model import release

    return release(tmp_path_factory.mktemp("released"))
