"""Other codecs on the same input, each through its own package in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glc.bench.first_image import FirstImage
from glc.errors import EngineFailed, EngineUnavailable

PEERS = {
    "compressai": ("bmshj2018-hyperprior", "mbt2018", "cheng2020-attn"),
    "neuralcompression": ("MS-ILLM",),
}
"""Package -> its models."""

_PROGRAM = Path(__file__).resolve().parent / "peer_program.py"


@dataclass(frozen=True, slots=True)
class PeerTurn:
    """One image there and back."""

    encode_ms: float
    decode_ms: float
    file_bytes: int
    peak_bytes: int
    """Of the process, so far."""


class Piped:
    """A program of ours in another interpreter, that answers each line with one of JSON."""

    def __init__(self, package: str, name: str, command: Sequence[str]) -> None:
        """Start it and wait until it has opened.

        Args:
            package: what the interpreter must have.
            name: of what it runs, for messages.
            command: interpreter, program, arguments.

        Raises:
            EngineUnavailable: it cannot start, or the package is not there.
        """
        self._name = f"{package} {name}"
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise EngineUnavailable(f"cannot start {command[0]}: {error.strerror}") from error
        try:
            self.opened = self._answer()
        except EngineFailed as error:
            raise EngineUnavailable(
                f"{error}; install {package} in an environment of its own and name its interpreter by --peer-python"
            ) from error

    def ask(self) -> dict[str, Any]:
        """Give it a turn.

        Raises:
            EngineFailed: the process ended.
        """
        assert self._process.stdin  # noqa: S101 - it was asked for
        with contextlib.suppress(BrokenPipeError):  # it has ended: the answer tells why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout  # noqa: S101 - it was asked for
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        _, words = self._process.communicate()
        last = [text.strip() for text in words.splitlines() if text.strip()][-1:]
        raise EngineFailed(f"{self._name}: {last[0] if last else f'ended with {self._process.returncode}'}")


class PeerProcess(Piped):
    """A model that waits for its turn."""

    def __init__(self, package: str, model: str, image: Path, threads: int, python: str | None) -> None:
        """Start it and code the image once.

        Args:
            package: one of `PEERS`.
            model: one of its models.
            image: .npy file, (H, W, 3) uint8.
            threads: of its own.
            python: interpreter that has the package; this one by default.

        Raises:
            EngineUnavailable: the package cannot be imported there.
            EngineFailed: the process ended.
        """
        command = [python or sys.executable, str(_PROGRAM), package, model, str(image), str(threads)]
        super().__init__(package, model, command)
        opened = self.opened
        self.parameters = int(opened["parameters"])
        first = self.turn()
        self.first_image = FirstImage(
            opened["import_ms"], opened["open_ms"], first.encode_ms, first.decode_ms, first.peak_bytes
        )

    def turn(self) -> PeerTurn:
        """Code the image once more.

        Raises:
            EngineFailed: the process ended.
        """
        return PeerTurn(**self.ask())
