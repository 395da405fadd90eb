"""Streams: what counts as drift, what does not, and alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from service.monitoring.drift.false_rejects import MAX_BLOCKS, FalseRejects
from service.monitoring.drift.history import MAX_POINTS, History
from service.monitoring.drift.records import Limits, Observation, Reference, StoredStream
from service.monitoring.drift.streams import FIRST_INSPECTIONS, FalseRejectStream, Stream, make_streams
from service.schemas.drift import DriftKind

NOW = datetime(2026, 11, 28, tzinfo=UTC)
LIMITS = Limits(1e7, 5e4)
QUALITY = {"brightness": 100.0, "contrast": 20.0, "sharpness": 50.0, "red_share": 0.3, "blue_share": 0.4}
SCORES = np.sort(np.random.default_rng(5).gamma(2, size=99))
THRESHOLD = float(SCORES[-1])
REFERENCE = Reference("key", "card", {"score": [s for s in SCORES.tolist() if s < THRESHOLD]}, 0.03)


def observation(number: int, score: float, **quality: float) -> Observation:
    is_reject = score > THRESHOLD
    return Observation(f"{number:08}", float(number), None, score, THRESHOLD, is_reject, QUALITY | quality)


def observe(streams: dict[DriftKind, Stream], observations: Sequence[Observation]) -> None:
    for item in observations:
        for stream in streams.values():
            stream.observe(item)
            stream.check(LIMITS)


def alarms(streams: dict[DriftKind, Stream]) -> set[str]:
    return {kind for kind, stream in streams.items() if stream.state == "alarm"}


def scores(count: int, seed: int = 0) -> list[float]:
    found: list[float] = np.random.default_rng(seed).gamma(2, size=count).tolist()
    return found


def varied(numbers: Sequence[int], brightness: float = 100.0) -> list[Observation]:
    rng = np.random.default_rng(1)
    return [
        observation(number, score, brightness=brightness + rng.normal())
        for number, score in zip(numbers, scores(len(numbers), 9), strict=True)
    ]


@pytest.mark.parametrize("defects", [0.0, 0.01, 0.1])
def test_a_constant_share_of_defects_is_no_drift(defects: float) -> None:
    rng = np.random.default_rng(11)
    good = scores(4000)
    mixed = [100.0 if rng.random() < defects else score for score in good]
    streams = make_streams(None, REFERENCE, NOW)
    observe(streams, [observation(number, score) for number, score in enumerate(mixed, 1)])
    assert alarms(streams) == set()


def test_good_parts_that_score_higher_are_drift_even_if_none_fails() -> None:
    streams = make_streams(None, REFERENCE, NOW)
    rng = np.random.default_rng(2)
    observe(streams, [observation(number, score) for number, score in enumerate(scores(300), 1)])
    high = rng.uniform(SCORES[60], THRESHOLD, 100).tolist()
    observe(streams, [observation(number, score) for number, score in enumerate(high, 301)])
    assert alarms(streams) == {"p_value"}
    stream = streams["p_value"]
    assert (stream.direction, stream.source) == ("higher", "card")
    assert stream.onset is not None
    assert stream.onset.timestamp() == pytest.approx(301, abs=10)


def test_a_change_of_light_is_not_an_alarm_of_the_parts() -> None:
    streams = make_streams(None, REFERENCE, NOW)
    observe(streams, varied(range(1, 400)))
    assert alarms(streams) == set()
    observe(streams, varied(range(400, 450), brightness=85.0))
    assert alarms(streams) == {"brightness"}
    assert streams["brightness"].direction == "lower"
    assert streams["brightness"].source == "inspections"


def test_without_reference_values_the_first_inspections_are_collected() -> None:
    streams = make_streams(None, REFERENCE, NOW)
    observe(streams, varied(range(FIRST_INSPECTIONS - 3)))
    assert streams["brightness"].state == "collecting"
    assert streams["p_value"].state == "ok"
    observe(streams, varied(range(FIRST_INSPECTIONS, FIRST_INSPECTIONS + 20)))
    assert (streams["brightness"].state, streams["brightness"].reference_count) == ("ok", FIRST_INSPECTIONS)


def test_images_without_colour_have_no_drift_of_colour() -> None:
    streams = make_streams(None, REFERENCE, NOW)
    gray = [observation(number, score, red_share=1 / 3, blue_share=1 / 3) for number, score in enumerate(scores(3000))]
    observe(streams, gray)
    assert streams["colour"].evidence < 5


def test_an_older_inspection_without_a_measure_is_left_out() -> None:
    streams = make_streams(None, REFERENCE, NOW)
    item = replace(observation(1, 1.0), quality={"brightness": 1.0})
    observe(streams, [item])
    assert (streams["colour"].count, streams["brightness"].count) == (0, 1)


def test_a_step_of_the_reject_rate_raises_an_alarm_and_suspends_with_more_evidence() -> None:
    rng = np.random.default_rng(4)
    streams = make_streams(None, REFERENCE, NOW)
    stream = streams["reject_rate"]
    history = [100.0 if rng.random() < 0.01 else 1.0 for _ in range(3000)]
    observe(streams, [observation(number, score) for number, score in enumerate(history, 1)])
    assert stream.state == "ok"
    for number in range(3001, 6000):
        stream.observe(observation(number, 100.0 if rng.random() < 0.03 else 1.0))
        if stream.check(LIMITS):
            break
    assert (stream.state, stream.suspends) == ("alarm", False)
    for number in range(6000, 6100):
        stream.observe(observation(number, 100.0))
        stream.check(LIMITS)
    assert stream.suspends


def test_an_alarm_freezes_the_stream_until_it_is_acknowledged() -> None:
    streams = make_streams(None, REFERENCE, NOW)
    observe(streams, [observation(number, THRESHOLD - 1e-9 * number) for number in range(1, 200)])
    stream = streams["p_value"]
    assert stream.state == "alarm"
    count, evidence = stream.count, stream.evidence
    observe(streams, [observation(number, 1.0) for number in range(200, 300)])
    assert (stream.count, stream.evidence) == (count, evidence)
    stream.restart(NOW)
    assert (stream.state, stream.evidence, stream.history.points) == ("ok", 0.0, ())
    observe(streams, [observation(number, score) for number, score in enumerate(scores(10), 300)])
    assert stream.count == count + 10


def test_a_stored_stream_continues_with_the_same_evidence() -> None:
    whole, stored = make_streams(None, REFERENCE, NOW), make_streams(None, REFERENCE, NOW)
    for item in varied(range(1, 260)):
        observe(whole, [item])
        for kind, stream in stored.items():
            fresh = make_streams(None, REFERENCE, NOW)[kind]
            fresh.restore(
                StoredStream(
                    stream.source, stream.started_at, stream.count, stream.alarm_id,
                    stream.reference_to_stored(), stream.to_stored(), stream.history.to_stored(),
                )
            )  # fmt: skip
            stored[kind] = fresh
        observe(stored, [item])
    for kind, stream in whole.items():
        other = stored[kind]
        assert (stream.evidence, stream.onset, stream.count) == (other.evidence, other.onset, other.count), kind
        assert stream.history.points == other.history.points


def false_reject_stream(inspections: int, rate: float, labelled: int) -> FalseRejectStream:
    stream = FalseRejectStream("false_reject", None, replace(REFERENCE, false_reject_bound=rate), NOW)
    rejects: list[str] = []
    for number in range(1, inspections + 1):
        is_reject = number % 10 == 0
        stream.observe(replace(observation(number, 1.0), is_reject=is_reject))
        rejects += [f"{number:08}"] * is_reject
    stream.label(rejects[-labelled:], 1.0)
    stream.check(LIMITS)
    return stream


def test_reviews_that_contradict_the_bound_raise_an_alarm() -> None:
    # One part in ten is a false reject; the bound is 3 %.
    assert false_reject_stream(1000, 0.03, 100).state == "alarm"
    assert false_reject_stream(1000, 0.03, 20).state == "ok"
    assert false_reject_stream(1000, 0.12, 100).state == "ok"
    # Only the last tenth of a long time: the rate rose there.
    late = false_reject_stream(10_000, 0.03, 100)
    assert late.state == "alarm"
    assert late.onset is not None
    assert late.onset.timestamp() > 8000


def test_late_labels_count_where_the_inspection_was_not_where_the_label_is() -> None:
    stream = false_reject_stream(1000, 0.12, 100)
    before = stream.wealth
    stream.label([f"{number:08}" for number in range(1000, 0, -10)], 2.0)
    assert stream.wealth == before


def test_blocks_and_history_are_bounded() -> None:
    found, history = FalseRejects(0.03), History()
    for number in range(60_000):
        found.add(f"{number:08}", number, False)
        history.add(number, number % 1000 / 1000)
    assert len(found.to_stored()["blocks"]) <= MAX_BLOCKS
    assert found.accepted == 60_000
    assert len(history.points) <= MAX_POINTS
    assert [at for at, _ in history.points] == sorted(at for at, _ in history.points)
    assert max(evidence for _, evidence in history.points) == 0.999
