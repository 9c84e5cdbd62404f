"""`basemlx doctor`: checks this installation and prints what it found, as text or as JSON for a bug report."""

import json

from basemlx.server.commands.terminal import waiting
from basemlx.server.diagnosis import machine, surroundings
from basemlx.server.diagnosis.report import Check, Report
from basemlx.server.settings import DEFAULT_HOST, DEFAULT_PORT

EXIT_OK, EXIT_FAILURE = 0, 1


def doctor(*, as_json: bool = False) -> int:
    """The exit code: 1 if something does not work, else 0."""
    with waiting("looking, and running the built-in model") as done:
        report = Report(tuple(_checks()))
        done()
    print(json.dumps(report.data(), indent=2) if as_json else report.text())
    return EXIT_OK if report.works else EXIT_FAILURE


def _checks() -> list[Check]:
    mlx, info = machine.mlx()
    checks = [mlx]
    if info is not None:
        checks += [machine.blas(info), machine.compiler(info), machine.memory(info)]
    checks += [
        machine.cores(info),
        surroundings.models(),
        surroundings.port(DEFAULT_HOST, DEFAULT_PORT),
        surroundings.environment(),
    ]
    if info is not None:
        from basemlx.server.diagnosis.selftest import selftest

        checks.append(selftest())
    return checks
