"""A real vLLM server on this machine, from an environment of its own: `make test-vllm` says which."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

PYTHON = os.environ.get("FISSION_VLLM")
"""The interpreter that can import vLLM; None: these tests are skipped."""
PATIENCE = 600.0
"""Seconds until a server must have loaded a tiny model: half a minute, and several where other work holds all cores."""
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class VLLMServer:
    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """The server and its workers, without a word."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving_vllm(model: Path, *options: str, name: str = "nano") -> Iterator[VLLMServer]:
    """A server of a model's folder, up; it and all its workers are gone afterwards."""
    assert PYTHON is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The command `vllm` finds no metadata in the build for CPUs.
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-num-batched-tokens", "8192", "--max-num-seqs", "64", *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env={**os.environ, **_ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            server = VLLMServer(f"http://127.0.0.1:{port}", process)
            _await(server)
            yield server
        except Exception as error:
            log.seek(0)
            error.add_note(log.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            _end(process)


def _await(server: VLLMServer) -> None:
    until = time.monotonic() + PATIENCE
    while not _healthy(server.url):
        assert server.process.poll() is None, f"the server ended with status {server.process.returncode}"
        assert time.monotonic() < until, f"the server is not up after {PATIENCE:g} s"
        time.sleep(0.5)


def _healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=5.0).is_success
    except httpx2.TransportError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its workers are in its session, and may outlive it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
