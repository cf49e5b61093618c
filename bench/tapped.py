"""An engine whose coder is listened to: symbols and z indices, which a codec does not give away."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

from glc.engines import Array, Engine, EngineLoader, HostLoader, StageListener, Tensor, Workspace
from glc.errors import EngineUnavailable


class TappedLoader(HostLoader):
    """An engine on the CPU, with some graphs in place of others; keeps what the coder fetches."""

    def __init__(self, inner: EngineLoader, replaced: Mapping[str, bytes]) -> None:
        """Prepare.

        Args:
            inner: loads.
            replaced: SHA-256 of a graph -> what to load instead.
        """
        self._inner, self._replaced = inner, replaced
        self.name, self.fingerprint = inner.name, inner.fingerprint
        self.strips_take_half = isinstance(inner, HostLoader) and inner.strips_take_half
        self.fetched: dict[str, Array] = {}
        """What the coder fetched last."""

    def sparing(self) -> TappedLoader:
        """See `HostLoader.sparing`."""
        loader = TappedLoader(self._host().sparing(), self._replaced)
        loader.fetched = self.fetched
        return loader

    def recall(self, sha256: str, *, exact: bool) -> Engine | None:
        """See `HostLoader.recall`."""
        return None if sha256 in self._replaced else self._host().recall(sha256, exact=exact)

    def load_strips(self, graph: bytes) -> Engine:
        """See `StripLoader.load_strips`."""
        return self._host().load_strips(graph)

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """See `EngineLoader.load`."""
        return self._inner.load(self._replaced.get(hashlib.sha256(graph).hexdigest(), graph), exact=exact)

    def _host(self) -> HostLoader:
        if not isinstance(self._inner, HostLoader):
            raise EngineUnavailable(f"{self.fingerprint} is not an engine on the CPU")
        return self._inner

    @contextlib.contextmanager
    def workspace(self, on_stage: StageListener | None) -> Iterator[Workspace]:
        """See `EngineLoader.workspace`."""
        with super().workspace(on_stage) as workspace:
            yield _Tap(workspace, self.fetched)


class _Tap:
    """A workspace that keeps what is fetched."""

    def __init__(self, inner: Workspace, kept: dict[str, Array]) -> None:
        self._inner, self._kept = inner, kept
        self.run, self.store = inner.run, inner.store

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
        found = self._inner.fetch(tensors)
        self._kept.clear()
        self._kept.update(found)
        return found
