"""The TensorRT backend of the C++ library: over a fake TensorRT and a fake CUDA, and against NVIDIA's own headers."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_tensorrt"
SOURCES = ROOT / "engines" / "cpp"
PROGRAMS = ("tensorrt-10", "tensorrt-8", "tensorrt-rtx")
AT_EXIT = "a global segmenter may log while the process ends"
HEADERS = "MSAL_DEPLOY_TENSORRT_HEADERS"  # a folder with one folder of headers for each release


def json_headers() -> Path:
    import nlohmann_json

    (folder,) = nlohmann_json.__path__
    return Path(folder) / "include"


@pytest.fixture(scope="session")
def programs(tmp_path_factory, run) -> Path:
    """The checks under AddressSanitizer and UndefinedBehaviorSanitizer: over TensorRT 10, 8.6 and RTX, all fakes."""
    folder = tmp_path_factory.mktemp("checks")
    sanitizers = "-fsanitize=address,undefined -fno-sanitize-recover=all"
    run("make", "-f", FAKE / "Makefile", "-j2", f"BUILD={folder}", f"FLAGS={sanitizers}", f"JSON={json_headers()}")
    return folder


def names(program: str) -> list[str]:
    """Return the names of a program's checks, read from the sources."""
    found = []
    for file in ("checks_host.cpp", "checks_device.cpp", "checks_faults.cpp"):
        listed = (FAKE / file).read_text(encoding="utf-8").split("std::vector<Check> ")[1:]
        for part in listed:
            for condition, block in re.findall(r"#(ifdef|ifndef) FAKE_RTX\n(.*?)#endif", part, re.DOTALL):
                if (condition == "ifdef") != (program == "tensorrt-rtx"):
                    part = part.replace(block, "")
            found += re.findall(r'{"(.*?)", \w+, (?:true|false)}', part)
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_check_of_the_backend_passes(programs, run, program):
    done = run(programs / program, check=False)
    passed = re.findall(r"^ok +(.*)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(passed) == sorted(names(program)) and len(passed) >= 30


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_global_segmenter_may_log_while_the_process_ends(programs, run, program):
    done = run(programs / program, AT_EXIT, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 checks, 0 failed\n" in done.stdout and "a message while a context is destroyed" in done.stdout


def test_a_check_that_fails_ends_the_program_so(programs, run):
    done = run(programs / "tensorrt-10", "shapes take turns", check=False, FAKE="enqueue")
    assert done.returncode == 1 and "FAILED  shapes take turns: TensorRT could not run the plan" in done.stdout


def compile_backend(headers: Path, folder: Path) -> str:
    """Compile the backend against the headers of one release, warnings as errors; return what the compiler says."""
    (folder / "msal_deploy").mkdir(exist_ok=True)
    (folder / "msal_deploy" / "export.hpp").write_text("#define MSAL_DEPLOY_EXPORT\n")
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
    own = [f"-I{path}" for path in (folder, SOURCES / "include", SOURCES / "src")]
    theirs = [word for path in (headers, FAKE / "cuda") for word in ("-isystem", str(path))]
    files = [str(SOURCES / "src" / "cuda.cpp"), *map(str, sorted((SOURCES / "src").glob("tensorrt*.cpp")))]
    words = ["g++", "-std=c++17", "-fsyntax-only", *warnings, *own, *theirs, *files]
    return subprocess.run(words, capture_output=True, text=True).stderr


def test_the_backend_compiles_without_a_warning_against_real_headers(tmp_path):
    if not os.environ.get(HEADERS):
        pytest.skip(f"{HEADERS} is not set: name a folder that has one folder with NvInfer.h for each release")
    releases = sorted(file.parent for file in Path(os.environ[HEADERS]).glob("*/NvInfer.h"))
    assert releases, f"no */NvInfer.h in {os.environ[HEADERS]}"
    failed = {release.name: said for release in releases if (said := compile_backend(release, tmp_path))}
    assert not failed
    print(f"compiled against {len(releases)} releases: {', '.join(release.name for release in releases)}")


def test_that_test_notices_headers_that_do_not_fit(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "NvInferVersion.h").write_text("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 5\n")
    (tmp_path / "old" / "NvInfer.h").write_text('#include "NvInferVersion.h"\n')
    assert "TensorRT is not 8.6 or later" in compile_backend(tmp_path / "old", tmp_path)
