"""Processes that work for another one, and must not outlive it."""

import multiprocessing
import os
import threading
import time
from functools import cache

POLL_SECONDS = 0.5


@cache
def end_with_parent() -> None:
    """From now on this process ends when the one that started it is gone, which a process that is killed cannot do for its own."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    process = multiprocessing.parent_process()
    if process is not None and process.sentinel is not None:  # not always the parent: a forkserver stands between; joblib's has no sentinel
        process.join()
    else:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
    os._exit(1)
