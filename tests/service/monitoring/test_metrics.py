import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from service.api.http.problems import catalogue
from service.errors import InvalidRequest, QueueFull
from service.monitoring.buckets import STAGE_BUCKETS_S
from service.monitoring.metrics import SHED_REASONS, Metrics
from service.monitoring.score_histogram import ScoreHistogram, score_buckets
from service.recipes.recipe import Recipe


def exposed(histogram: ScoreHistogram) -> list[str]:
    registry = CollectorRegistry()
    registry.register(histogram)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_each_product_has_its_own_buckets() -> None:
    histogram = ScoreHistogram("score", "Scores.")
    histogram.add("bolt", [1.0, 2.0])
    histogram.add("nut", [100.0])
    for score in (0.5, 1.0, 1.5, 7.0):
        histogram.observe("bolt", score)
    histogram.observe("nut", 50.0)
    assert exposed(histogram) == [
        'score_bucket{le="1.0",product="bolt"} 2.0',
        'score_bucket{le="2.0",product="bolt"} 3.0',
        'score_bucket{le="+Inf",product="bolt"} 4.0',
        'score_count{product="bolt"} 4.0',
        'score_sum{product="bolt"} 10.0',
        'score_bucket{le="100.0",product="nut"} 1.0',
        'score_bucket{le="+Inf",product="nut"} 1.0',
        'score_count{product="nut"} 1.0',
        'score_sum{product="nut"} 50.0',
    ]


def test_same_buckets_keep_counting_and_other_buckets_reset_the_series() -> None:
    histogram = ScoreHistogram("score", "Scores.")
    histogram.add("bolt", [1.0])
    histogram.observe("bolt", 0.5)
    histogram.add("bolt", [1.0])
    assert 'score_count{product="bolt"} 1.0' in exposed(histogram)
    histogram.add("bolt", [2.0])
    assert 'score_count{product="bolt"} 0.0' in exposed(histogram)


def test_product_that_was_not_added_is_not_counted() -> None:
    with pytest.raises(KeyError):
        ScoreHistogram("score", "Scores.").observe("ghost", 1.0)


@pytest.mark.parametrize("scores", [[0.1, 0.2, 0.3], [1.0], [0.0, 0.0], [-5.0, -4.0, 3.0]])
def test_buckets_ascend_and_contain_the_largest_good_score(scores: list[float]) -> None:
    bounds = score_buckets(scores)
    assert all(left < right for left, right in itertools.pairwise(bounds))
    assert bounds[0] <= scores[-1] <= bounds[-1]
    assert scores[0] < 0 or bounds[0] >= 0


def test_stage_buckets_are_dense_in_the_range_of_an_inspection() -> None:
    assert len([bound for bound in STAGE_BUCKETS_S if 0.001 <= bound <= 0.1]) >= 12


def test_two_applications_in_one_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.shed.labels("queue_full").inc()
    assert b'inspection_shed_total{reason="queue_full"} 1.0' in first.expose()
    assert b'inspection_shed_total{reason="queue_full"} 0.0' in second.expose()


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_failures_are_logged_with_their_request_and_without_variables(log_format: str) -> None:
    # In a process of its own: logging is configured once per process.
    program = f"""
import logging, structlog
from service.monitoring.logs import configure_logging
from service.settings import Settings
configure_logging(Settings(log_format={log_format!r}, log_level="info"))
structlog.contextvars.bind_contextvars(request_id="r-1")
secret = "image" * 3
structlog.get_logger("a").debug("not wanted")
logging.getLogger("uvicorn.error").info("from the library")
try:
    raise RuntimeError("broken")
except RuntimeError:
    structlog.get_logger("a").exception("unexpected", product="bolt")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    assert "not wanted" not in run.stderr
    assert "imageimage" not in run.stderr.replace('secret = "image"', "")
    if log_format == "json":
        library, failure = (json.loads(line) for line in run.stderr.splitlines())
        assert (library["event"], library["level"]) == ("from the library", "info")
        assert (failure["request_id"], failure["product"]) == ("r-1", "bolt")
        assert "RuntimeError: broken" in failure["exception"]
    else:
        assert "RuntimeError: broken" in run.stderr
    assert logging.getLogger().level != logging.DEBUG


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.expose().decode().splitlines() if line.startswith(name)]


def test_duration_of_requests_is_measured_by_status_class() -> None:
    metrics = Metrics()
    for status in (200, 201, 404, 503, 0):
        metrics.http.count_request("POST", "/v1/x", status, 0.1)

    counts = {
        line.split('status_class="')[1][:3]: line[-3:] for line in lines(metrics, "http_request_duration_seconds_count")
    }
    assert counts == {"2xx": "2.0", "4xx": "1.0", "5xx": "1.0", "non": "1.0"}


def test_disk_space_is_read_at_every_scrape_and_a_missing_folder_does_not_break_it(tmp_path: Path) -> None:
    metrics, folder = Metrics(), tmp_path / "data"
    folder.mkdir()
    metrics.storage.set_folders({"data": folder})
    (free,), (total,) = (lines(metrics, f"inspection_disk_{kind}_bytes{{") for kind in ("free", "total"))
    assert 0 < float(free.split()[1]) <= float(total.split()[1])

    folder.rmdir()
    (free,) = lines(metrics, "inspection_disk_free_bytes{")
    assert free.endswith(" NaN")


def test_target_rates_follow_the_recipe() -> None:
    metrics = Metrics()
    certified = Recipe.default([float(rank) for rank in range(99)])
    metrics.bundles.set_recipe("bolt", certified, 1)
    assert len(lines(metrics, 'inspection_target_rate{kind="fail",product="bolt"} 0.01')) == 1
    assert len(lines(metrics, "inspection_target_rate{")) == 2

    by_hand = certified.model_copy(update={"target_false_reject_rate": None, "review_rate": None})
    metrics.bundles.set_recipe("bolt", by_hand, 2)
    assert lines(metrics, "inspection_target_rate{") == []


def test_only_a_lack_of_capacity_is_counted_as_shed() -> None:
    assert {reason.replace("_", "-") for reason in SHED_REASONS} <= set(catalogue())
    metrics = Metrics()
    metrics.count_shed(QueueFull(1, 1.0))
    metrics.count_shed(InvalidRequest("The body is empty."))
    lines = [line for line in metrics.expose().decode().splitlines() if line.startswith("inspection_shed_total{")]
    assert [line for line in lines if not line.endswith(" 0.0")] == ['inspection_shed_total{reason="queue_full"} 1.0']
