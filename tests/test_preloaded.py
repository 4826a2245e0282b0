"""Processes that are lent libraries are like others: their results, their ends, and what they find loaded."""

import os
import subprocess
import sys
import time

import preloaded
import psutil
import pytest

LOADED = "import sys; print('torch' in sys.modules, [name for name in sys.modules if name.partition('.')[0] in ('calm', 'pipeline')])"
FORKED = """
import multiprocessing, os
if __name__ == "__main__":
    process = multiprocessing.get_context("forkserver").Process(target=os._exit, args=(5,))
    process.start()
    process.join()
    print(process.exitcode, end="")
"""


@pytest.fixture(scope="module")
def python():
    if not (folder := preloaded.commands()):
        pytest.skip("no processes are lent here")
    return folder / "python"


def run(python, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([python, *arguments], capture_output=True, text=True, timeout=60, **options)


CODES = ("print(1)", "import sys; sys.exit('a reason')", "import sys; sys.exit(3)", "import sys; sys.stderr.write('é'); raise SystemExit")


@pytest.mark.parametrize("code", CODES)
def test_output_and_status_are_those_of_python(python, code):
    lent, own = run(python, "-c", code), run(sys.executable, "-c", code)
    assert (lent.returncode, lent.stdout, lent.stderr) == (own.returncode, own.stdout, own.stderr)


def test_a_module_is_run_with_its_arguments_in_its_folder(python, tmp_path):
    (tmp_path / "told.py").write_text("import os, sys; print(__name__, sys.argv[1:], os.getcwd(), os.environ['OWN'], sys.stdin.read())")
    done = run(python, "-m", "told", "a b", "--c", cwd=tmp_path, env={**os.environ, "OWN": "x"}, input="in")
    assert done.stdout == f"__main__ ['a b', '--c'] {tmp_path} x in\n", done.stderr


def test_libraries_are_loaded_and_nothing_of_the_project(python):
    assert run(python, "-c", LOADED).stdout == "True []\n"


def test_faults_and_signals_are_told(python):
    done = run(python, "-c", "1 / 0")
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert run(python, "-c", "import os; os.kill(os.getpid(), 9)").returncode == 128 + 9


def test_a_worker_of_a_lent_process_is_lent_too(python, tmp_path):
    (tmp_path / "forked.py").write_text(FORKED)
    assert run(python, "-m", "forked", cwd=tmp_path).stdout == "5"


def test_what_is_no_module_is_left_to_python(python):
    assert run(python, "--version").stdout == f"Python {sys.version.split()[0]}\n"


def test_a_process_ends_with_its_client(python, tmp_path):
    client = subprocess.Popen([python, "-c", "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"], cwd=tmp_path)
    while not (tmp_path / "pid").exists() or not (number := (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    process = psutil.Process(int(number))
    client.kill()
    client.wait()
    process.wait(10)
