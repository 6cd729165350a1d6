"""Runs a command as its own process: how the quickstart and the effect start their steps."""

import subprocess
import sys


def command_line(name: str, *arguments: object) -> list[str]:
    """Return what starts a command of this package: its file's name here, and its arguments."""
    return [sys.executable, "-m", f"{__package__}.{name}", *map(str, arguments)]


def print_command(command: list[str]) -> None:
    """Print what is started, as it can be typed."""
    print("    $ python", *command[1:], flush=True)


def run_command_line(name: str, *arguments: object) -> None:
    """Run a command and wait for it; end this process with its exit code where it fails."""
    command = command_line(name, *arguments)
    print_command(command)
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)
