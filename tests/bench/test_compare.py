"""`bench --compare`: what counts as slower, and how often two runs of the same thing seem to differ."""

import io
import json
from math import exp, log, sqrt

import msgspec
import numpy as np
import pytest
from rich.console import Console
from saved_reports import MACHINE, report, saved
from scipy.stats import t

from msal_deploy.bench.compare import BETWEEN_RUNS, Comparison, check_comparable, compare
from msal_deploy.bench.formats import SavedReport
from msal_deploy.bench.ratios import Ratio
from msal_deploy.errors import BadInput, GateFailed

TORCH = [400.0, 404.0, 396.0, 400.0, 402.0, 398.0]


def over(baseline, ratio):
    """Return windows that are `ratio` times as fast, without noise of their own."""
    return [value / ratio for value in baseline]


def two(then, now, **changes):
    """Compare runs in which openvino:int8 is `then` and `now` times as fast as torch."""
    old, new = ({"torch:fp32": TORCH, "openvino:int8": over(TORCH, ratio)} for ratio in (then, now))
    return compare(saved(old), saved(new, **changes))


def test_the_same_report_has_no_change():
    one = {"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5)}
    comparison = compare(saved(one), saved(one))
    (change,) = comparison.changes
    assert (change.verdict, change.change.ratio, change.name) == ("same", 1.0, "openvino:int8, batch 1")
    assert (comparison.messages(), comparison.slower) == ((), ())
    comparison.require_not_slower()


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(4.0, "slower"), (4.85, "slower"), (4.9, "same"), (5.1, "same"), (5.15, "faster"), (6, "faster")],
)
def test_without_noise_within_a_run_what_remains_is_the_noise_between_runs(now, verdict):
    # 1.96 × √2 × 1% = 2.77%: 4.85 / 5 is −3.05% in logarithms, 4.9 / 5 is −2.02%.
    (change,) = two(5.0, now).changes
    assert change.verdict == verdict
    margin = 1.95996 * sqrt(2) * BETWEEN_RUNS
    assert log(change.change.high / change.change.ratio) == pytest.approx(margin, rel=1e-4)
    assert log(change.change.ratio / change.change.low) == pytest.approx(margin, rel=1e-4)


def ratio_of(value, low, high):
    """Return a report with a speed-up of exactly this."""
    made = report({"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5)})
    made["results"][1]["speed_up"] = {"ratio": value, "low": low, "high": high}
    return msgspec.convert(made, SavedReport)


def test_the_interval_of_a_change_is_made_of_both_intervals_by_hand():
    # Three processes: two degrees of freedom, where t is 4.3027. Then: ±8.6054% in logarithms, a standard error of 2%.
    # Now: ±4.3027%, 1%. Between runs: 1% twice. The sum of variances is 5 + 2 = 7 (×10⁻⁴).
    t2 = 4.302652729911275
    then = ratio_of(5.0, 5 * exp(-0.02 * t2), 5 * exp(0.02 * t2))
    now = ratio_of(4.5, 4.5 * exp(-0.01 * t2), 4.5 * exp(0.01 * t2))
    (change,) = compare(then, now).changes
    # Welch: 7² / (4² / 2 + 1² / 2) = 49 / 8.5 degrees of freedom.
    margin = t.ppf(0.975, 49 / 8.5) * sqrt(7e-4)
    assert change.change.ratio == pytest.approx(0.9)
    assert change.change.low == pytest.approx(0.9 * exp(-margin))
    assert change.change.high == pytest.approx(0.9 * exp(margin))
    assert change.verdict == "slower"  # 0.9 × 1.07 is 0.96


def test_each_limit_uses_the_side_that_faces_it():
    t2 = 4.302652729911275
    then = ratio_of(5.0, 5.0, 5 * exp(0.03 * t2))  # all of its uncertainty is above
    (change,) = compare(then, ratio_of(5.0, 5.0, 5.0)).changes
    # The new one may be lower by what the old one may be higher: 9 + 2 = 11 (×10⁻⁴); above, only the 2 between runs.
    assert log(1 / change.change.low) == pytest.approx(t.ppf(0.975, 121 / (81 / 2)) * sqrt(11e-4))
    assert log(change.change.high) == pytest.approx(1.95996 * sqrt(2e-4), rel=1e-4)


def test_several_engines_need_a_larger_change():
    def engines(ratio):
        return {"torch:fp32": TORCH} | {f"openvino:{k}": over(TORCH, ratio) for k in range(10)}

    assert two(5.0, 4.84).slower
    changes = compare(saved(engines(5.0)), saved(engines(4.84))).changes
    assert len(changes) == 10 and {one.verdict for one in changes} == {"same"}
    margin = t.ppf(1 - 0.025 / 10, 1e9) * sqrt(2e-4)
    assert log(changes[0].change.ratio / changes[0].change.low) == pytest.approx(margin)


def noisy_run(rng, ratios, noise=0.01, rounds=3, windows=2):
    """Return a run whose processes, windows and run each add noise of the same size to every latency."""
    engines = {"torch:fp32": 400.0} | {f"engine:{k}": 400 / ratio for k, ratio in enumerate(ratios)}
    made = {}
    for engine, latency in engines.items():
        shared = BETWEEN_RUNS * rng.standard_normal() / sqrt(2)  # a ratio has that of two engines
        processes = np.repeat(noise * rng.standard_normal(rounds), windows)
        each = noise * rng.standard_normal(rounds * windows)
        made[engine] = (latency * np.exp(shared + processes + each)).tolist()
    return saved(made, per_process=windows)


@pytest.mark.parametrize("engines", [1, 6])
@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_of_two_runs_of_the_same_thing_few_have_something_slower(engines, noise):
    rng = np.random.default_rng(1)
    pairs, ratios = 400, [5.0] * engines
    false_alarms = sum(
        bool(compare(noisy_run(rng, ratios, noise), noisy_run(rng, ratios, noise)).slower) for _ in range(pairs)
    )
    # 2.5% of 400 are 10. Of a binomial with that mean, 99.9% are at most 21.
    assert false_alarms <= 21


def test_an_engine_that_is_a_fifth_slower_is_noticed():
    rng = np.random.default_rng(2)
    found = [compare(noisy_run(rng, [5.0, 2.0, 3.0]), noisy_run(rng, [5.0, 1.6, 3.0])).slower for _ in range(40)]
    assert sum([one.setting[0] for one in slower] == ["engine:1"] for slower in found) >= 36


def test_something_slower_is_named_with_both_speed_ups():
    with pytest.raises(GateFailed) as caught:
        two(5.0, 4.0).require_not_slower()
    assert caught.value.cause == (
        "Slower than before, beyond noise: openvino:int8, batch 1: -20.0% (-22.2 to -17.8) "
        "(5.00× torch:fp32 then, 4.00× now)"
    )


def test_an_engine_that_fails_now_fails_the_gate():
    failed = [{"engine": "onnxruntime:int8", "batch": 1, "threads": None, "streams": 1, "message": "it died"}]
    old = {"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5), "onnxruntime:int8": over(TORCH, 3)}
    new = {"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5)}
    comparison = compare(saved(old), saved(new, failed=failed))
    assert comparison.messages() == ("Timed then, and fails now: onnxruntime:int8, batch 1.",)
    with pytest.raises(GateFailed, match="onnxruntime:int8, batch 1 fails now"):
        comparison.require_not_slower()
    only = compare(
        saved(old | {"openvino:int8": TORCH}), saved({"torch:fp32": TORCH}, failed=[failed[0] | {"threads": None}])
    )
    assert only.changes == () and only.failed == ("onnxruntime:int8, batch 1",)


def test_engines_of_only_one_report_are_named_and_fail_nothing():
    old = {"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5), "openvino:fp32": over(TORCH, 2)}
    new = {"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5), "onnxruntime:int8": over(TORCH, 3)}
    comparison = compare(saved(old), saved(new))
    assert comparison.messages() == (
        "Only in the old report: openvino:fp32, batch 1.", "Only in the new report: onnxruntime:int8, batch 1.",
    )  # fmt: skip
    comparison.require_not_slower()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"processor": "Other CPU"}, "processor Some CPU then, Other CPU now"),
        ({"gpus": ["A GPU"]}, "GPUs none then, A GPU now"),
        ({"instructions": ["avx2"]}, "instructions unknown then, avx2 now"),
        ({"threads": {"default": 4}}, "threads 2 then, 4 now"),
        ({"processor": None, "gpus": ["A", "B"]}, "processor Some CPU then, unknown now; GPUs none then, A, B now"),
    ],
)
def test_another_machine_is_reported_and_judges_nothing(changes, said):
    comparison = two(5.0, 4.0, environment=MACHINE | changes)
    assert comparison.other_machine == said
    assert comparison.messages() == (
        f"Another machine: {said}. Speed-ups hold for one machine: nothing is judged.",
    )  # fmt: skip
    comparison.require_not_slower()
    assert "slower" not in printed(comparison)


def test_another_date_and_load_are_the_same_machine():
    comparison = two(5.0, 4.0, environment=MACHINE | {"date": "2027", "load_average": [9.0], "memory_gib": 3})
    assert comparison.other_machine == "" and comparison.slower


def test_other_versions_and_an_interruption_are_remarked():
    environment = MACHINE | {"versions": {"msal-deploy": "1.2", "openvino": "2026.2", "torch": "3"}}
    comparison = two(5.0, 5.0, environment=environment, interrupted=True)
    assert comparison.messages() == ("Other versions: openvino 2026.1 → 2026.2.", "The new report was interrupted.")


def test_a_busy_machine_is_remarked():
    assert two(5.0, 5.0, environment=MACHINE | {"busy_before": 0.25}).messages() == ()
    assert two(5.0, 5.0, environment=MACHINE | {"busy_before": 0.9}).messages() == (
        "The machine was 90% busy before the new run: that alone can change a speed-up.",
    )  # fmt: skip


def test_another_baseline_and_another_size_are_refused_before_a_run():
    old = saved({"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5)})
    check_comparable(old, "torch:fp32", (512, 512))
    with pytest.raises(BadInput) as caught:
        check_comparable(old, "openvino:int8", (512, 512))
    assert str(caught.value) == (
        "The old report has speed-ups over torch:fp32, and the new one over openvino:int8; add --baseline torch:fp32"
    )
    with pytest.raises(BadInput) as caught:
        check_comparable(old, "torch:fp32", (256, 512))
    assert str(caught.value) == (
        "The old report is of images of 512 × 512 px, and the new one of 256 × 512; add --size 512x512"
    )
    with pytest.raises(BadInput, match="no speed-up to compare with"):
        check_comparable(saved({"torch:fp32": TORCH}), "torch:fp32", (512, 512))


def test_reports_without_a_setting_in_common_are_refused():
    old = saved({"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5)})
    with pytest.raises(BadInput, match="no setting in common"):
        compare(old, saved({"torch:fp32": TORCH, "openvino:fp32": over(TORCH, 2)}))
    with pytest.raises(BadInput, match="no setting in common"):
        compare(old, saved({"torch:fp32": TORCH, "openvino:int8": over(TORCH, 5)}, batch=4))


def test_settings_of_one_engine_are_compared_one_by_one():
    def swept(*ratios):
        made = report(
            {"torch:fp32": TORCH} | {f"openvino:int8{k}": over(TORCH, ratio) for k, ratio in enumerate(ratios)}
        )
        for k, row in enumerate(made["results"][1:]):
            row |= {"engine": "openvino:int8", "threads": k + 1, "streams": k + 1}
        return msgspec.convert(made, SavedReport)

    comparison = compare(swept(2.0, 4.0), swept(2.0, 3.0))
    names = ["openvino:int8, batch 1, 1 threads", "openvino:int8, batch 1, 2 threads, 2 streams"]
    assert [one.name for one in comparison.changes] == names
    assert [one.name for one in comparison.slower] == names[1:]


def printed(comparison):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison.table())
    return console.export_text()


def test_the_table_has_then_now_and_the_change():
    row = next(line for line in printed(two(5.0, 4.0)).splitlines() if "int8" in line)
    assert row.split() == [
        "openvino:int8,",
        "batch",
        "1",
        "5.00×",
        "4.00×",
        "-20.0%",
        "(-22.2",
        "to",
        "-17.8)",
        "slower",
    ]
    assert "faster" in printed(two(4.0, 5.0))


def test_the_json_has_the_verdicts():
    value = two(5.0, 4.0).to_json()
    assert json.loads(json.dumps(value, allow_nan=False))["changes"][0]["verdict"] == "slower"
    (change,) = value["changes"]
    assert (change["verdict"], change["setting"]) == ("slower", ("openvino:int8", 1, None, 1))
    assert value["baseline"] == "torch:fp32" and change["old"]["ratio"] == 5.0
    assert Comparison("a", ()).to_json()["changes"] == [] and Ratio(1.0, 1.0, 1.0).agrees(Ratio(1.0, 1.0, 1.0))
