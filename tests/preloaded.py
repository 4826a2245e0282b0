"""A Python that has loaded PyTorch, Transformers and their like, and lends itself to the processes that tests start.

A stage loads libraries for seconds, and then works for less on the small corpora of the tests. So one server a test session loads them
once. `commands()` has a command like `python`, which hands its arguments, environment, folder and open files to the server. This forks a
process that does what `python -m ...` or `python -c ...` would do. Nothing of the project is loaded before: the process takes it from its
own folder. Only processes that a test waits for are started so; those that a test kills are ordinary ones.
"""

import array
import atexit
import contextlib
import fcntl
import functools
import gc
import io
import json
import multiprocessing
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

SESSION = os.environ.setdefault("CALM_TEST_SESSION", str(os.getpid()))  # the first process of several
LIBRARIES = (
    *("torch", "torch.utils.data", "safetensors.torch", "accelerate", "peft"),
    *("transformers.modeling_utils", "transformers.tokenization_utils_base"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.bert.modeling_bert", "transformers.models.whisper.modeling_whisper"),
    *("pandas", "pyarrow.parquet", "pyarrow.dataset", "scipy.signal", "scipy.stats"),
    *("sklearn.linear_model", "sklearn.pipeline", "sklearn.preprocessing"),
    *("soundfile", "soxr", "av", "whisper.normalizers", "onnx", "onnxscript"),
    *("pydantic", "yaml", "grimp", "filelock", "tqdm", "matplotlib.pyplot", "mlflow", "mlflow.store.tracking.sqlalchemy_store"),
    *("dvc.repo", "dvc.cli", "dvc.commands.repro", "dvc.commands.status"),
    *("multiprocessing.forkserver", "multiprocessing.resource_tracker"),
)
FILES = 700  # more than a process has open


def commands() -> Path | None:
    """A folder with the commands `python` and `dvc`, after starting the server unless it runs.

    None where the system has no such means, and where coverage is measured, which begins with a process.
    """
    if not hasattr(os, "pidfd_open") or "COVERAGE_PROCESS_CONFIG" in os.environ:
        return None
    folder = Path(tempfile.gettempdir()) / f"calm-preloaded-{SESSION}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made := folder / "bin").exists():
            _start(folder)
            made.mkdir()
            for name in ("python", "dvc"):
                client = Path(__file__).with_name("preloaded_client.py").read_text()
                (made / name).write_text(f"#!{sys.executable} -IS\n{client}")
                (made / name).chmod(0o755)
    return made


def _start(folder: Path) -> None:
    """Start the server, and wait until it listens."""
    ready, told = os.pipe()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "log").open("wb") as log:
        options = {"pass_fds": [told], "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        serving = [sys.executable, "-P", str(Path(__file__).resolve()), str(folder), SESSION, str(told)]
        subprocess.Popen(serving, env=environment, cwd=folder, **options)
    os.close(told)
    assert os.read(ready, 1), f"the server did not start: {(folder / 'log').read_text()}"
    os.close(ready)


def serve(folder: Path, session: int, told: int) -> None:
    """Load the libraries, then fork a process for each client, until the test session has ended."""
    for name in LIBRARIES:
        import_module(name)
    threads = {int(task.name): (task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    threads.pop(os.getpid())
    # PyArrow's is made for forks; others would be missing after one.
    assert set(threads.values()) <= {"jemalloc_bg_thd"}, f"a library started threads: {threads}"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test session that is interrupted ends it
    gc.freeze()  # what is loaded is not looked at again, so its pages stay shared
    ended = os.pidfd_open(session)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    os.write(told, b"1")
    os.close(told)
    working = {}  # process file descriptor: process, client
    while True:
        readable, _, _ = select.select([listener, ended, *working, *(client for _, client in working.values())], [], [])
        if ended in readable:
            return shutil.rmtree(folder)
        for process, (number, client) in list(working.items()):
            if process in readable:
                _tell(client, os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
                os.close(process)
                del working[process]
            elif client in readable:  # it was killed
                os.kill(number, signal.SIGKILL)
        if listener in readable:
            client, _ = listener.accept()
            try:
                asked, files = _request(client)
            except ValueError:  # the client was killed before it had said all
                client.close()
                continue
            if (number := os.fork()) == 0:
                os._exit(_status(functools.partial(_work, asked, files)))
            for file in files:
                os.close(file)
            working[os.pidfd_open(number)] = number, client


def _request(client: socket.socket) -> tuple[dict, list[int]]:
    """What a client asks for, and its open files."""
    head, passed, _, _ = client.recvmsg(8, socket.CMSG_LEN(253 * array.array("i").itemsize))
    files = array.array("i")
    for _, _, data in passed:
        files.frombytes(data)
    message = b""
    while len(message) < int.from_bytes(head, "big") and (part := client.recv(1 << 20)):
        message += part
    return json.loads(message), list(files)


def _tell(client: socket.socket, code: int) -> None:
    with client, contextlib.suppress(OSError):  # the client may have ended
        client.sendall((code if code >= 0 else 128 - code).to_bytes(8, "big"))


def _status(action: Callable[[], None]) -> int:
    """Exit status of a process that does an action, after what Python does at its end, but for a second of unloading the libraries."""
    code = 0
    try:
        action()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    return code & 255


def _work(asked: dict, files: list[int]) -> None:
    """Become the process that was asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(OSError):
        os.setpgid(0, asked["group"])
    high = [fcntl.fcntl(number, fcntl.F_DUPFD, FILES) for number in files]
    os.closerange(3, FILES)
    for number, target in zip(high, asked["files"], strict=True):
        os.dup2(number, target, inheritable=True)
        os.close(number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.FileIO(0, closefd=False))
    for number, name in ((1, "stdout"), (2, "stderr")):
        binary = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        stream = io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", line_buffering=number == 2)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    kind, what, *arguments = asked["arguments"]
    sys.orig_argv = [sys.executable, *asked["arguments"]]
    sys.path[:0] = [asked["folder"], *filter(None, asked["environment"].get("PYTHONPATH", "").split(os.pathsep))]
    multiprocessing.set_executable(asked["python"])
    if kind == "-m":
        sys.argv = [what, *arguments]
        runpy._run_module_as_main(what)  # what `python -m` calls
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
