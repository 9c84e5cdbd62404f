"""What every test may use: MLX prepared as the server prepares it, and small models on disk."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basemlx.engine import runtime

# A shell that starts the tests in the background has SIGINT ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

runtime.prepare(stand_alone=True)  # before any test module imports mlx-lm: tests do not pay for torch

from tests.model_zoo import write_model  # noqa: E402

if TYPE_CHECKING:  # tests of the engine do not pay for the server
    from tests.serving import Noise, ServerProcess


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skips-fail", action="store_true", help="what is skipped has failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    return _judged(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    return _judged(report, collector.config)


def _judged(report: Any, config: pytest.Config) -> Any:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail") and config.getoption("--skips-fail"):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """zoo("qwen3", bits=4, …) is the folder of that model, written once a session. Tests must not change it."""
    folders: dict[str, Path] = {}

    def folder(kind: str, **options: Any) -> Path:
        key = "-".join([kind, *(f"{name}={value}" for name, value in sorted(options.items()))])
        if key not in folders:
            folders[key] = write_model(tmp_path_factory.mktemp("zoo") / kind, kind, **options)
        return folders[key]

    return folder


@pytest.fixture(scope="session")
def noise(zoo: Callable[..., Path]) -> "Iterator[Noise]":
    """An engine of four rows and a queue of four, in this process."""
    from tests.serving import noise_engine

    with noise_engine(zoo("qwen3")) as made:
        yield made


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[ServerProcess]":
    """`basemlx serve` with `tiny` and `noise`, which wants API_KEY; it has to end well when all tests are through."""
    from tests.serving import API_KEY, ServerProcess

    folder = write_model(tmp_path_factory.mktemp("served") / "noise", "qwen3")
    with ServerProcess("--model", "tiny", "--model", str(folder), BASEMLX_API_KEY=API_KEY) as process:
        yield process
        assert process.is_running
        assert process.stop() == 0, process.log
