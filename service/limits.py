"""What a service takes from strangers, and for how long it listens to them."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MAX_BODY_BYTES = 32 << 20
DEFAULT_MAX_PIXELS = 1 << 20
"""An image takes several kilobytes of memory a pixel while it is coded (docs/serve.md)."""
DEFAULT_MAX_QUEUE = 16
DEFAULT_MAX_CONNECTIONS = 256
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_RECEIVE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one service; all are positive, `queue` may be 0."""

    body_bytes: int
    """Largest body of a request."""
    pixels: int
    """Most pixels of an image, by its width and height as its header states them."""
    workers: int
    """Images coded at once."""
    queue: int
    """Further requests that may wait; what comes then is refused."""
    connections: int
    """Connections open at once; more are closed unheard."""
    request_s: float
    """From the head of a request to the answer."""
    receive_s: float
    """For the head of a request, for its body, and for a client to take its answer."""

    @property
    def admitted(self) -> int:
        """Requests in the pool at once. As many full bodies are held there, and as many while they are received."""
        return self.workers + self.queue
