"""Slots of Prefect's limits, and the GPUs that go with them, without a server."""

import contextlib
import json
import threading
from types import SimpleNamespace

import httpx
import pytest

from pipeline import paths
from pipeline.flows import limits
from pipeline.flows.subprocesses import Stopped


class Client:
    """What `free_lost` asks Prefect's server: how many slots of each limit are taken."""

    def __init__(self, **taken: int):
        self.taken = taken

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read_global_concurrency_limit_by_name(self, name: str):
        return SimpleNamespace(id=f"id-of-{name}", active_slots=self.taken[name])

    def update_global_concurrency_limit(self, name: str, update) -> None:
        self.taken[name] = update.active_slots


def test_slots_without_a_lease_are_freed_and_others_are_not(tmp_path, monkeypatch):
    for number, (name, slots) in enumerate((("gpu", 1), ("gpu", 2), ("cpu", 1))):
        lease = {"id": f"a-{number}", "resource_ids": [f"id-of-{name}"], "metadata": {"slots": slots}}
        (tmp_path / f"a-{number}.json").write_text(json.dumps(lease))
    (tmp_path / "expirations.json").write_text("{}")
    client = Client(gpu=5, cpu=1)
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda **_: client)
    assert limits.free_lost(tmp_path) == {"gpu": 2} and client.taken == {"gpu": 3, "cpu": 1}
    assert limits.free_lost(tmp_path) == {}
    assert limits.free_lost(tmp_path / "none yet") == {"gpu": 3, "cpu": 1} and client.taken == {"gpu": 0, "cpu": 0}


def refusal(cause: Exception | None) -> Exception:
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

    error = ConcurrencySlotAcquisitionError("no slot")
    error.__cause__ = cause
    return error


def answer(status: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("", request=httpx.Request("POST", "http://server"), response=httpx.Response(status))


@pytest.fixture
def server(monkeypatch):
    """Refusals of Prefect's server, in order; after them it gives slots, whose number it notes."""
    refusals, given = [], []

    @contextlib.contextmanager
    def concurrency(name: str, count: int, **_):
        if refusals:
            raise refusals.pop(0)
        given.append((name, count))
        yield
        raise httpx.ConnectError("gone when the slots are given back")

    monkeypatch.setattr("prefect.concurrency.sync.concurrency", concurrency)
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0)
    return SimpleNamespace(refusals=refusals, given=given)


def test_a_busy_or_lost_server_is_asked_again(server, capsys):
    server.refusals += [
        refusal(answer(423)),
        refusal(answer(503)),
        refusal(httpx.ConnectError("")),
        refusal(httpx.ReadError("")),
        TimeoutError(),
    ]
    with limits._take_from_server("gpu", 2, threading.Event()):
        assert server.given == [("gpu", 2)] and not server.refusals
    assert capsys.readouterr().err.count("does not answer") == 1


@pytest.mark.parametrize("cause", [None, answer(404), answer(422), ValueError()])
def test_any_other_refusal_is_an_error(server, cause):
    server.refusals.append(expected := refusal(cause))
    with pytest.raises(type(expected)), limits._take_from_server("gpu", 2, threading.Event()):
        pytest.fail("no slot was given")
    assert not server.given


def test_what_a_flow_asks_a_lost_server_is_asked_again(monkeypatch, capsys):
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0)
    refusals = [httpx.ConnectError(""), httpx.ReadError("")]

    @limits.waits_for_server
    def ask(what: str) -> str:
        if refusals:
            raise refusals.pop()
        return f"{what} answered"

    assert ask("limits") == "limits answered" and not refusals
    assert capsys.readouterr().err.count("does not answer") == 1


def test_a_stopped_flow_asks_no_more(server):
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Stopped), limits._take_from_server("gpu", 1, stopped):
        pytest.fail("the flow is stopped")
    assert not server.given


def test_a_stage_sees_only_the_gpus_of_its_slots(tmp_path, monkeypatch):
    """Two flows of one machine never share a device; stages that need none see none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limits, "_take_from_server", lambda *_: contextlib.nullcontext())
    paths.servers().mkdir(parents=True)
    this_flow, other_flow = (limits.Limits({"gpu": 3, "cpu": 1}, ["0", "1", "2"]) for _ in range(2))
    never = threading.Event()
    with this_flow.take("gpu", 1, never) as first, other_flow.take("gpu", 2, never) as second, this_flow.take("cpu", 1, never) as none:
        assert [first, second, none] == [{"CUDA_VISIBLE_DEVICES": devices} for devices in ("0", "1,2", "")]
        stopped = threading.Event()
        threading.Timer(0.3, stopped.set).start()
        with pytest.raises(Stopped), this_flow.take("gpu", 1, stopped):
            pytest.fail("there are only three devices")
    with this_flow.take("gpu", 9, never) as all_of_them:  # no more than there are
        assert all_of_them == {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    with limits.Limits({"gpu": 1, "cpu": 1}, []).take("gpu", 2, never) as environment:
        assert environment == {}
