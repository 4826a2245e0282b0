"""What all tests share."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see pipeline/stages/__init__.py
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of what tests start: several processes share the cores

import preloaded  # noqa: E402, F401  it notes which process began
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("busy", deadline=None)  # another process may take the core for longer than a deadline
settings.load_profile("busy")

# Files that begin, in turn by three processes on two cores, of which one often waits for a server or a lock; four were no faster. The
# first makes the small project that others wait for, the next do without it. What takes long comes early, so that none is alone at the end.
FIRST = (
    "test_dag",
    "test_paper_recipe",
    "test_study",
    "test_torchrun",
    "test_rows",
    "test_flows",
    "test_docs",
    "test_rebuild",
    "test_encoder_end_to_end",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """Folder of a small model of audio and text."""
    from made_model import release

    return release(tmp_path_factory.mktemp("released"))
