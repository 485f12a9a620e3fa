"""How many threads the runtimes get: the affinity and the CPU quota of a container count."""

import os

import pytest
import torch
from tiny_bundle import write_tiny_bundle

from msal_deploy.hardware import available_cores, limited_cores
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.torch import TorchEngine, _threads

V1 = "5:memory:/docker/a1\n4:cpu,cpuacct:/docker/a1\n1:name=systemd:/\n"


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda self: list(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),  # rounded up
        ("0::/\n", {"cpu.max": "5000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "3200000 100000"}, 8),  # more than the machine has
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        ("0::/\n", {}, 8),
        ("", {}, 8),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "max 100000"}, 3),  # a parent's
        ("0::/pod/box\n", {"cpu.max": "300000 100000"}, 3),  # a container that sees the host's name of its group
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 3),
        (
            V1,
            {
                "cpu,cpuacct/docker/a1/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/docker/a1/cpu.cfs_period_us": "50000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"memory/cpu.max": "100000 100000"}, 8),  # another controller's
    ],
)
def test_the_quota_of_the_control_groups_counts(tmp_path, groups, files, cores):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert available_cores(tmp_path) == cores
    assert limited_cores(tmp_path) == (cores if cores < 8 else None)


@pytest.mark.usefixtures("eight_cores")
def test_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda self: [0, 3, 5])
    assert (available_cores(tmp_path), limited_cores(tmp_path)) == (3, 3)


@pytest.mark.parametrize(("asked", "given"), [(None, 1), (5, 5)])
def test_runtimes_compute_with_as_many_threads_as_the_quota_allows(tmp_path, monkeypatch, asked, given):
    monkeypatch.setattr("msal_deploy.runtimes.base.limited_cores", lambda: 1)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with _threads(TorchEngine(bundle, "fp32", asked)._cpu_threads):
        assert torch.get_num_threads() == given
    with open_engine(bundle, "onnxruntime:fp32", threads=asked) as engine:
        assert engine._session.get_session_options().intra_op_num_threads == given
    with open_engine(bundle, "openvino:fp32", threads=asked) as engine:
        assert engine._compile((1, 32, 32, 3)).get_property("INFERENCE_NUM_THREADS") == min(given, os.cpu_count())
