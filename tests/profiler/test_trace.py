"""Trace events: the format that Chrome and Perfetto read."""

import json
import threading

import fusedstep
import numpy as np
import pytest


@pytest.fixture
def record(tmp_path):
    opt = fusedstep.optim.Adam(np.ones(300, np.float32))
    g = np.ones(300, np.float32)

    def work():
        for _ in range(5):
            opt.step(g)

    with fusedstep.profile() as prof:
        with prof.range("own"):
            work()
        thread = threading.Thread(target=work, name="another")
        thread.start()
        thread.join()
    path = tmp_path / "trace.json"
    prof.trace(path)
    return json.loads(path.read_text(encoding="utf-8")), prof


def test_file_is_an_object_of_events(record):
    file, _ = record
    assert file["displayTimeUnit"] in ("ms", "ns")
    assert isinstance(file["traceEvents"], list)


def test_every_event_has_the_fields_of_its_phase(record):
    file, _ = record
    for event in file["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert event["ph"] in ("X", "M")
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            continue
        assert isinstance(event["tid"], int)
        assert isinstance(event["cat"], str)
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert isinstance(event.get("args", {}), dict)


def test_calls_are_complete_events_in_order_within_the_block(record):
    file, prof = record
    calls = [event for event in file["traceEvents"] if event["ph"] == "X"]
    assert [event["cat"] for event in calls].count("optimizer") == 10
    assert [event["ts"] for event in calls] == sorted(event["ts"] for event in calls)
    assert max(event["ts"] + event["dur"] for event in calls) <= prof.seconds * 1e6
    (own,) = (event for event in calls if event["cat"] == "range")
    assert own["name"] == "own"
    inside = [event for event in calls if event["cat"] == "optimizer" and event["tid"] == own["tid"]]
    assert len(inside) == 5
    assert all(own["ts"] <= event["ts"] and event["ts"] + event["dur"] <= own["ts"] + own["dur"] for event in inside)
    assert inside[0]["args"]["bytes"] == 300 * 28
    assert inside[0]["args"]["shape"] == "300"


def test_threads_have_tracks_and_names(record):
    file, _ = record
    tracks = {event["tid"]: event["args"]["name"] for event in file["traceEvents"] if event["name"] == "thread_name"}
    assert tracks[0] == "MainThread"
    assert len(tracks) == 2
    assert {event["tid"] for event in file["traceEvents"] if event["ph"] == "X"} == tracks.keys()
