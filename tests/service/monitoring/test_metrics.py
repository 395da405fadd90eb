import itertools
import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from service.api.http.problems import catalogue
from service.bundle.bundle import Bundle
from service.bundle.card import MeasureRange
from service.errors import InvalidRequest, QueueFull
from service.inspection.quality import Quality
from service.monitoring.buckets import STAGE_BUCKETS_S, quality_buckets, score_buckets
from service.monitoring.metrics import SHED_REASONS, Metrics
from service.monitoring.scaled_histogram import ScaledHistogram
from service.monitoring.station_metrics import DECISIONS, STATIONS_PER_PRODUCT
from service.recipes.recipe import Recipe
from tests.bundles import tiny_quality, write_tiny_bundle


def exposed(histogram: ScaledHistogram) -> list[str]:
    registry = CollectorRegistry()
    registry.register(histogram)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_each_product_has_its_own_buckets() -> None:
    histogram = ScaledHistogram("score", "Scores.")
    histogram.add([1.0, 2.0], "bolt")
    histogram.add([100.0], "nut")
    for score in (0.5, 1.0, 1.5, 7.0):
        histogram.observe(score, "bolt")
    histogram.observe(50.0, "nut")
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
    histogram = ScaledHistogram("score", "Scores.")
    histogram.add([1.0], "bolt")
    histogram.observe(0.5, "bolt")
    histogram.add([1.0], "bolt")
    assert 'score_count{product="bolt"} 1.0' in exposed(histogram)
    histogram.add([2.0], "bolt")
    assert 'score_count{product="bolt"} 0.0' in exposed(histogram)


def test_product_that_was_not_added_is_not_counted() -> None:
    with pytest.raises(KeyError):
        ScaledHistogram("score", "Scores.").observe(1.0, "ghost")


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


def good_image() -> Quality:
    return Quality(brightness=120.0, dark_share=0.0, bright_share=0.0, sharpness=50.0, contrast=20.0)


def count(metrics: Metrics, station: str | None, decision: str = "pass") -> None:
    metrics.count_inspection(
        "widget", decision, station=station, quality=good_image(), score=0.02, p_value=0.5, duration_s=0.01,
        timings_s={}, batch_size=1,
    )  # fmt: skip


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_inspections_are_counted_by_station(tiny_bundle: Bundle) -> None:
    metrics = Metrics()
    metrics.set_product(tiny_bundle, "cpu")
    count(metrics, "A")
    count(metrics, "A", "fail")
    count(metrics, None)
    metrics.count_invalid("widget", ["blurred"], station="A", quality=good_image(), duration_s=0.01, timings_s={})

    name = "inspection_station_requests_total"
    station = {"product": "widget", "station": "A"}
    counts = {decision: value(metrics, name, decision=decision, **station) for decision in DECISIONS}
    assert counts == {"pass": 1, "review": 0, "fail": 1, "invalid": 1}
    assert value(metrics, name, product="widget", station="default", decision="pass") == 1


def test_stations_beyond_the_limit_share_one_series(tiny_bundle: Bundle) -> None:
    metrics = Metrics()
    metrics.set_product(tiny_bundle, "cpu")
    for station in range(STATIONS_PER_PRODUCT + 3):
        count(metrics, f"station {station}")
    count(metrics, "station 0")

    series = lines(metrics, "inspection_station_requests_total{")
    assert len({re.findall(r'station="([^"]*)"', line)[0] for line in series}) == STATIONS_PER_PRODUCT + 1
    name, labels = "inspection_station_requests_total", {"product": "widget", "decision": "pass"}
    assert value(metrics, name, station="other", **labels) == 3
    assert value(metrics, name, station="station 0", **labels) == 2


def test_image_quality_has_buckets_around_the_calibration_images(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path, quality=tiny_quality(brightness=(100.0, 140.0)))
    metrics = Metrics()
    metrics.set_product(bundle, "cpu")
    count(metrics, "A")

    labels = {"product": "widget", "measure": "brightness"}
    assert value(metrics, "inspection_image_quality_count", **labels) == 1
    assert value(metrics, "inspection_image_quality_sum", **labels) == 120
    assert value(metrics, "inspection_image_quality_bucket", le="110.0", **labels) == 0
    assert value(metrics, "inspection_image_quality_bucket", le="120.0", **labels) == 1
    for bound, expected in (("low", 100), ("median", 120), ("high", 140)):
        assert value(metrics, "inspection_calibration_quality", bound=bound, **labels) == expected


def test_bundle_without_quality_statistics_has_no_quality_metrics(tiny_bundle: Bundle, tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.set_product(tiny_bundle, "cpu")
    metrics.set_product(write_tiny_bundle(tmp_path, quality=None), "cpu")
    count(metrics, "A")

    assert lines(metrics, "inspection_image_quality_bucket") == []
    assert lines(metrics, "inspection_calibration_quality{") == []


@pytest.mark.parametrize("measured", [(100.0, 140.0), (120.0, 120.0), (0.0, 0.0)])
def test_quality_buckets_ascend_and_contain_the_calibration_images(measured: tuple[float, float]) -> None:
    low, high = measured
    bounds = quality_buckets(MeasureRange(low=low, median=low, high=high))
    assert all(left < right for left, right in itertools.pairwise(bounds))
    assert 0 <= bounds[0] <= low <= high <= bounds[-1]
    # A change of the illumination by 15 % is visible if all calibration images have the same brightness.
    assert low == 0 or len([bound for bound in bounds if 0.85 * low < bound < 1.15 * high]) >= 4


def test_quantiles_of_the_calibration_scores_are_exposed(tiny_bundle: Bundle) -> None:
    metrics = Metrics()
    metrics.set_product(tiny_bundle, "cpu")
    scores = tiny_bundle.card.scores
    found = {
        quantile: value(metrics, "inspection_calibration_score", product="widget", quantile=quantile)
        for quantile in ("0.05", "0.5", "0.95", "1")
    }
    assert found == {"0.05": scores[5], "0.5": scores[49], "0.95": scores[93], "1": scores[-1]}


def test_time_of_a_change_is_set_by_a_change_only(tiny_bundle: Bundle, tmp_path: Path) -> None:
    metrics, other = Metrics(), write_tiny_bundle(tmp_path, gain=True)
    recipe = Recipe.default(tiny_bundle.card.scores)
    times = ("inspection_bundle_changed_timestamp_seconds", "inspection_recipe_changed_timestamp_seconds")

    def changed() -> list[bool]:
        return [bool(value(metrics, name, product="widget")) for name in times]

    for _ in range(2):  # the start of the service, and a change of something else
        metrics.set_product(tiny_bundle, "cpu")
        metrics.bundles.set_recipe("widget", recipe, 1)
        assert changed() == [False, False]
    metrics.bundles.set_recipe("widget", recipe, 2)
    assert changed() == [False, True]
    metrics.set_product(other, "cpu")
    assert changed() == [True, True]
    assert abs((value(metrics, times[0], product="widget") or 0) - time.time()) < 60


def test_changes_of_bundles_are_counted_from_zero(tiny_bundle: Bundle) -> None:
    metrics = Metrics()
    metrics.set_product(tiny_bundle, "cpu")
    assert len(lines(metrics, "inspection_bundle_changes_total{")) == 8


def test_series_of_other_products_are_not_read_when_one_changes(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A bundle that is loaded or unloaded changes its series. Reading those of thousands of products takes longer.
    metrics, other = Metrics(), write_tiny_bundle(tmp_path, gain=True)

    def collect(_gauge: Gauge) -> None:
        raise AssertionError("all series were read")

    with monkeypatch.context() as patched:
        patched.setattr(Gauge, "collect", collect)
        for bundle, provider in ((tiny_bundle, None), (tiny_bundle, "cpu"), (other, "cpu")):
            metrics.set_product(bundle, provider)
            metrics.bundles.set_shadow("widget", bundle)
        metrics.bundles.set_shadow("widget", None)

    (model,) = lines(metrics, "inspection_model_info{")
    assert (other.digest in model, 'provider="cpu"' in model) == (True, True)
    assert lines(metrics, "inspection_shadow_model_info{") == []
