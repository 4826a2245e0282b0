"""What all tests share."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see pipeline/stages/__init__.py

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("busy", deadline=None)  # another process may take the core for longer than a deadline
settings.load_profile("busy")


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """Folder of a small model of audio and text."""
    from made_model import release

    return release(tmp_path_factory.mktemp("released"))
