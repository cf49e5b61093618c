"""A codec among threads: what waits for what, how it closes, and what a forked process may do with it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from tests.runtime.conftest import SMALL
from tests.runtime.held_engine import WAIT_S, HeldLoader, held_codec

import glc
from glc.errors import EngineFailed


@pytest.fixture
def loader() -> HeldLoader:
    return HeldLoader()


# Threads


def test_engines_run_at_once_in_as_many_threads_as_call(loader: HeldLoader) -> None:
    with held_codec(loader) as codec, ThreadPoolExecutor(8) as pool:
        expected = codec.encode(SMALL)
        with loader.runs.shut():
            calls = [pool.submit(codec.encode, SMALL) for _ in range(8)]
            loader.runs.await_arrivals(8)
        assert [call.result(WAIT_S) for call in calls] == [expected] * 8
    assert loader.runs.most_waiting == 8


def test_who_needs_loaded_graphs_does_not_wait_for_one_that_loads(loader: HeldLoader) -> None:
    with held_codec(loader) as codec, ThreadPoolExecutor(1) as pool:
        data = codec.encode(SMALL)  # all graphs but synthesis
        with loader.loads.shut():
            decoding = pool.submit(codec.decode, data)
            loader.loads.await_arrivals(1)
            assert codec.encode(SMALL) == data
            assert not decoding.done()
        assert decoding.result(WAIT_S).shape == SMALL.shape


def test_two_graphs_load_at_once_and_none_twice(loader: HeldLoader) -> None:
    with held_codec(loader) as codec, ThreadPoolExecutor(4) as pool:
        data = codec.encode(SMALL)
        loader.closed.clear()
        with held_codec(loader) as other:
            with loader.loads.shut():
                calls: list[Callable[[], object]] = [lambda: other.encode(SMALL), lambda: other.decode(data)]
                futures = [pool.submit(call) for call in calls * 2]
                loader.loads.await_arrivals(2)  # analysis, and hyper_prior
            wait(futures, WAIT_S)
            assert [future.exception() for future in futures] == [None] * 4
        assert len(loader.closed) == len({id(engine) for engine in loader.closed}) == 6


# Closing


def test_closing_waits_for_the_call_under_way_and_lets_no_other_in(loader: HeldLoader) -> None:
    codec = held_codec(loader)
    expected = codec.encode(SMALL)
    with ThreadPoolExecutor(2) as pool:
        with loader.runs.shut():
            encoding = pool.submit(codec.encode, SMALL)
            loader.runs.await_arrivals(1)
            closing = pool.submit(codec.close)
            _until_refused(codec, expected)
            assert not closing.done()
            assert not loader.closed
        assert encoding.result(WAIT_S) == expected
        closing.result(WAIT_S)
    assert len(loader.closed) == 5
    codec.close()


def _until_refused(codec: glc.Codec, data: bytes) -> None:
    """Wait until another thread has begun to close; a stream that is refused anyhow would not tell."""
    for _ in range(1000):
        try:
            codec._lifetime.require_open()
        except EngineFailed:
            break
        threading.Event().wait(0.005)
    with pytest.raises(EngineFailed, match="closed"):
        codec.preview(data)


def test_many_threads_that_meet_a_close_get_their_result_or_are_refused() -> None:
    codec = glc.Codec.open(threads=1)
    expected = codec.encode(SMALL)
    began = threading.Barrier(5)

    def call() -> list[bytes]:
        made = []
        began.wait(WAIT_S)
        while True:
            try:
                made.append(codec.encode(SMALL))
            except EngineFailed as error:
                assert "closed" in str(error)  # noqa: PT017 - whatever else fails is no result
                return made

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(call) for _ in range(4)]
        began.wait(WAIT_S)
        threading.Event().wait(0.05)
        codec.close()
        assert {data for future in futures for data in future.result(WAIT_S)} <= {expected}


def test_a_codec_that_closes_in_its_own_call_says_so() -> None:
    codec = glc.Codec.open(threads=1, on_stage=lambda name, ms: codec.close())
    with pytest.raises(RuntimeError, match="from inside"):
        codec.encode(SMALL)
    codec.close()


def test_a_call_that_fails_does_not_hold_off_the_close(loader: HeldLoader) -> None:
    codec = held_codec(loader)
    data = codec.encode(SMALL)
    for wrong in (data[:-1], data[:14], b""):
        with pytest.raises(glc.BitstreamError):
            codec.decode(wrong)
    codec.close()
    assert loader.closed


# Other processes


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_codec_is_neither_pickled_nor_copied(how: Callable[[object], object], loader: HeldLoader) -> None:
    with held_codec(loader) as codec, pytest.raises(TypeError, match="open one where it is used"):
        how(codec)


_PARENT = """
import asyncio, gc, multiprocessing, os, signal, sys, warnings
import numpy as np
import glc
warnings.simplefilter("ignore", DeprecationWarning)  # of forks where threads run, from Python 3.12 on

image = (np.arange(60 * 70 * 3) % 251).astype(np.uint8).reshape(60, 70, 3)
codec = glc.Codec.open(engine={engine!r}, threads=2)
data = asyncio.run(codec.aencode(image))  # its threads too stay in the parent

def in_child(call):
    sys.stdout.flush()
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, "the child failed, or hung"
        return
    signal.alarm(60)  # ends it where it hangs
    status = 1
    try:
        call()
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)
"""

_CHILDREN = {
    "every call is refused": """
        def call():
            calls = [lambda: codec.encode(image), lambda: codec.decode(data), lambda: codec.preview(data),
                     codec.warm_up, lambda: asyncio.run(codec.aencode(image))]
            for one in calls:
                try:
                    one()
                except glc.EngineError as error:
                    print(type(error).__name__, error)
        in_child(call)
    """,
    "it may be closed and forgotten": """
        def call():
            global codec
            with codec:
                pass
            del codec
            gc.collect()
        in_child(call)
        assert codec.encode(image) == data
    """,
    "a codec of its own works": """
        def call():
            with glc.Codec.open(engine={engine!r}, threads=2) as own:
                assert own.encode(image) == data
                own.decode(data)
        in_child(call)
        assert codec.encode(image) == data
    """,
    "multiprocessing forks": """
        def call(number):
            try:
                codec.encode(image)
            except glc.EngineError as error:
                with glc.Codec.open(engine={engine!r}, threads=1) as own:
                    return type(error).__name__, own.encode(image) == data
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(call, range(4)).get(60)
        assert found == [("OpenedBeforeFork", True)] * 4, found
    """,
    "a thread that is in a call when the process forks": """
        import threading
        inside, go = threading.Event(), threading.Event()
        codec.close()
        def wait(name, ms):
            inside.set()
            go.wait(60)
        codec = glc.Codec.open(engine={engine!r}, threads=2, on_stage=wait)
        calling = threading.Thread(target=codec.encode, args=(image,))
        calling.start()
        inside.wait(60)
        def call():
            with codec:
                try:
                    codec.encode(image)
                except glc.EngineError as error:
                    assert type(error).__name__ == "OpenedBeforeFork"
        in_child(call)
        go.set()
        calling.join()
    """,
}


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("what", list(_CHILDREN))
def test_in_a_forked_child(what: str, engine: str) -> None:
    program = (_PARENT + textwrap.dedent(_CHILDREN[what])).replace("{engine!r}", repr(engine))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if what == "every call is refused":
        lines = done.stdout.splitlines()
        assert len(lines) == 5
        assert set(lines) == {"OpenedBeforeFork this codec was opened before the process forked: open one in the child"}
