"""A writer that computes or writes gets on; one that is stopped does not, until it goes on."""

import signal
import subprocess
import sys
import time

from megatron_in2.checkpoint.writer_progress import WriterProgress


def _wait_for(progress: WriterProgress, writer: int, expected: bool) -> None:
    while progress.has_advanced([writer]) is not expected:
        time.sleep(0.05)


def test_a_stopped_writer_does_not_advance() -> None:
    progress = WriterProgress()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as writer:
        try:
            for _ in range(2):
                _wait_for(progress, writer.pid, expected=True)
                writer.send_signal(signal.SIGSTOP)
                _wait_for(progress, writer.pid, expected=False)
                assert not progress.has_advanced([writer.pid])
                writer.send_signal(signal.SIGCONT)
        finally:
            writer.kill()


def test_without_a_writer_there_is_nothing_to_wait_for() -> None:
    progress = WriterProgress()
    assert progress.has_advanced([])
    assert progress.has_advanced([])
