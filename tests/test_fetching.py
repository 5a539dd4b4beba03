"""Files by path, URI and address: proved, kept in the folder that was named, and nowhere else."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.fetching import fetch
from disback_ray.storage import Folder

DATA = b"weights" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a server on this machine. It forgets to send the end of /cut.pt."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/none.pt":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[:100] if self.path == "/cut.pt" else DATA)

        def log_message(self, format: str, *arguments: object) -> None:
            asked.append(self.path)

    asked: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_path_and_its_proof(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(DATA)
    found = fetch(str(file))
    assert (found.name, found.data, found.sha256) == ("a.pt", DATA, SHA)
    assert fetch(file.as_uri(), sha256=SHA[:8].upper()) == found
    with pytest.raises(CheckpointError, match=f"its SHA-256 is {SHA[:16]}…, not 0000000000…"):
        fetch(str(file), sha256="0" * 10)
    with pytest.raises(CheckpointError, match=r"weights: .*no such file"):
        fetch(str(tmp_path / "b.pt"))
    for wrong in ("1234567", "g" * 10, "0" * 65):
        with pytest.raises(ConfigError, match=f"sha256 {wrong}: expected 8 to 64"):
            fetch(str(file), sha256=wrong)


def test_an_address_is_loaded_once_and_kept_where_it_was_said(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Folder.at(tmp_path / "cache")
    where = f"{address}/inception.pt?token=1"
    assert fetch(where, sha256=SHA, cache=cache).data == DATA
    assert capsys.readouterr().err == f"loading {where} into {cache.uri}/{SHA[:8]}-inception.pt\n"
    assert cache.names() == [f"{SHA[:8]}-inception.pt"]
    assert fetch(where.replace(address, "http://127.0.0.1:9"), sha256=SHA, cache=cache).data == DATA, "without asking again"
    (tmp_path / "cache" / cache.names()[0]).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="another file, or a damaged one"):
        fetch(where, sha256=SHA, cache=cache)


def test_an_address_wants_proof_and_a_place(address: str, tmp_path: Path) -> None:
    cache = Folder.at(tmp_path / "cache")
    with pytest.raises(ConfigError, match="give the file's SHA-256"):
        fetch(f"{address}/a.pt", cache=cache)
    with pytest.raises(ConfigError, match="give a cache folder"):
        fetch(f"{address}/a.pt", sha256=SHA)
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        fetch(f"{address}/a.pt", sha256="0" * 64, cache=cache)
    with pytest.raises(CheckpointError, match=r"none.pt: can't be loaded: .*Not Found"):
        fetch(f"{address}/none.pt", sha256=SHA, cache=cache)
    with pytest.raises(CheckpointError, match=r"cut.pt"):
        fetch(f"{address}/cut.pt", sha256=SHA, cache=cache)
    with pytest.raises(CheckpointError, match=r"can't be loaded: .*refused"):
        fetch("http://127.0.0.1:9/a.pt", sha256=SHA, cache=cache)
    assert not cache.names()
