"""A store that is somewhere else: an FTP server over a folder, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ftp_server(folder: Path) -> Iterator[str]:
    """Serves the folder to everybody on this machine, for reading and writing; yields its URL."""
    command = [sys.executable, "-m", "tests.ftp_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"ftp://{server.stdout.readline().strip()}"
        finally:
            server.kill()


def main(folder: str) -> None:
    # Here, in the server's process: it loads modules that warn, and in tests a warning is an error.
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(folder, perm="elradfmwMT")
    FTPHandler.authorizer = authorizer
    FTPHandler.use_sendfile = False
    server = FTPServer(("127.0.0.1", 0), FTPHandler)
    host, port = server.address[:2]
    print(f"{host}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
