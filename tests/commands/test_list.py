"""`basemlx list` beside servers that are not basemlx."""

import socket
import threading

import pytest

from basemlx.server.commands.list import list_models


def test_a_port_taken_by_something_that_speaks_no_http_counts_as_no_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        list_models("127.0.0.1", listener.getsockname()[1])
        thread.join()
    name, size, unit, *_, source, loaded = capsys.readouterr().out.splitlines()[1].split()
    assert (name, unit, source, loaded) == ("tiny", "MB", "built-in", "-")
    assert float(size) > 0
