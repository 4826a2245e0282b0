"""`python -m calm`: the command `calm`."""

from calm.cli import app

if __name__ == "__main__":
    app(prog_name="calm")
