"""Calls that event loops await."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.runtime.conftest import PHOTO, SMALL
from tests.runtime.held_engine import WAIT_S, HeldLoader, held_codec

import glc
from glc.errors import EngineFailed, NotABitstream


@pytest.fixture
def loader() -> HeldLoader:
    return HeldLoader()


def test_what_is_awaited_is_what_a_call_gives() -> None:
    async def through(codec: glc.Codec) -> None:
        data = await codec.aencode(PHOTO, 2.5, form="bare")
        assert data == codec.encode(PHOTO, 2.5, form="bare")
        expected = codec.decode(data, form="bare")
        out = np.empty_like(PHOTO)
        assert await codec.adecode(data, form="bare", out=out) is out
        for image in (out, await codec.adecode(data, form="bare"), await codec.adecode(data, form="bare", out=None)):
            np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(await codec.apreview(data, form="bare"), codec.preview(data, form="bare"))
        partial = await codec.adecode_partial(data[:-9], form="bare")
        assert 0 < partial.symbols < 1
        np.testing.assert_array_equal(partial.image, await codec.adecode(data[:-9], form="bare", allow_partial=True))

    with glc.Codec.open(threads=1) as codec:
        asyncio.run(through(codec))


def test_what_a_call_raises_is_raised_by_its_await(loader: HeldLoader) -> None:
    async def wrong(codec: glc.Codec) -> None:
        with pytest.raises(NotABitstream):
            await codec.adecode(b"no stream")
        with pytest.raises(ValueError, match="shape"):
            await codec.aencode(SMALL[0])

    with held_codec(loader) as codec:
        asyncio.run(wrong(codec))


def test_a_thousand_awaits_take_as_many_threads_as_there_are_workers(loader: HeldLoader) -> None:
    async def flood(codec: glc.Codec) -> None:
        image = SMALL[:8, :8]
        expected = codec.encode(image)
        before = threading.active_count()
        with loader.runs.shut():
            calls = [asyncio.ensure_future(codec.aencode(image)) for _ in range(1000)]
            await asyncio.sleep(0)  # all have begun
            await asyncio.to_thread(loader.runs.await_arrivals, 3)
            assert threading.active_count() <= before + 3 + 1  # and the one that just waited
            assert not any(call.done() for call in calls)
            for call in calls[100:]:
                call.cancel()
            loader.runs.open()
            assert await asyncio.gather(*calls[:100]) == [expected] * 100
            ended = await asyncio.gather(*calls[100:], return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended)

    with held_codec(loader, async_workers=3) as codec:
        asyncio.run(flood(codec))
        assert loader.runs.most_waiting == 3


def test_cancelled_before_its_turn_a_call_never_runs_and_after_it_nobody_sees_the_result(loader: HeldLoader) -> None:
    async def cancel(codec: glc.Codec) -> None:
        expected = codec.encode(SMALL)
        runs = len(loader.fed)
        with loader.runs.shut():
            running, waiting, last = (asyncio.ensure_future(codec.aencode(SMALL)) for _ in range(3))
            await asyncio.to_thread(loader.runs.await_arrivals, 1)
            for call in (running, waiting):
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            loader.runs.open()
            assert await last == expected
        assert len(loader.fed) == runs + 2 * 5  # the first ended in its thread, the last ran, that between did not

    with held_codec(loader, async_workers=1) as codec:
        asyncio.run(cancel(codec))


def test_a_close_ends_what_runs_and_refuses_what_waits(loader: HeldLoader) -> None:
    codec = held_codec(loader, async_workers=1)
    expected = codec.encode(SMALL)

    async def close() -> None:
        with loader.runs.shut():
            running, waiting = (asyncio.ensure_future(codec.aencode(SMALL)) for _ in range(2))
            await asyncio.to_thread(loader.runs.await_arrivals, 1)
            closing = asyncio.ensure_future(asyncio.to_thread(codec.close))
            while True:
                await asyncio.sleep(0.005)
                try:
                    codec._lifetime.require_open()
                except EngineFailed:
                    break
            assert not closing.done()
            loader.runs.open()
            await closing
        assert await running == expected
        for refused in (waiting, codec.aencode(SMALL)):
            with pytest.raises(EngineFailed, match="closed"):
                await refused

    threads = threading.active_count()
    asyncio.run(close())
    assert threading.active_count() == threads
    assert len(loader.closed) == 5


def test_event_loops_in_several_threads_share_a_codec() -> None:
    images = [PHOTO[k : k + 30, k : k + 50] for k in range(6)]

    async def all_of_them(codec: glc.Codec) -> list[bytes]:
        return await asyncio.gather(*(codec.aencode(image) for image in images))

    with glc.Codec.open(threads=1, async_workers=2) as codec, ThreadPoolExecutor(3) as pool:
        expected = [codec.encode(image) for image in images]
        loops = [pool.submit(asyncio.run, all_of_them(codec)) for _ in range(3)]
        assert [loop.result(WAIT_S) for loop in loops] == [expected] * 3


def test_a_call_sees_the_context_of_the_task_that_awaits_it() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen = set()

    async def one(codec: glc.Codec, name: str) -> None:
        request.set(name)
        await codec.aencode(SMALL)

    async def both(codec: glc.Codec) -> None:
        await asyncio.gather(one(codec, "first"), one(codec, "second"))

    with glc.Codec.open(threads=1, on_stage=lambda name, ms: seen.add(request.get())) as codec:
        asyncio.run(both(codec))
    assert seen == {"first", "second"}


@pytest.mark.parametrize("workers", [0, -1])
def test_there_must_be_a_worker(workers: int) -> None:
    with pytest.raises(ValueError, match="async_workers"):
        glc.Codec.open(async_workers=workers)
