"""What all tests share."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see pipeline/stages/__init__.py
