"""One module a DVC stage; each is run as `python -m pipeline.stages.<name>`."""

import os

# Threads of a parallel step wait asleep. Spinning, the default, costs up to 20 x where another process has one of the cores.
# It is read when torch is loaded, so it stands before any stage's own imports.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
