"""The store, what is promised of artifacts, and the copies of a node: real files, a real store, real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nas.addresses import Artifact
from nas.errors import CheckpointError, SettingError
from nas.jobs import DataFiles, DataPrepared, Exported, Trained
from workers import artifacts
from workers.artifacts_manifest import write_manifest
from workers.artifacts_scratch import OwnFolder, local_copy, scratch

BINARY = bytes(range(256)) * 1000


@pytest.fixture(params=["path", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where artifacts may be: the same holds of both."""
    return str(tmp_path / "a") if request.param == "path" else str(request.getfixturevalue("root"))


def upload(local: Path, folder: str) -> None:
    for file in local.rglob("*"):
        if file.is_file():
            artifacts.put(file, f"{folder}/{file.relative_to(local)}")


def attempt_with_weights(folder: str, tmp_path: Path) -> str:
    """An attempt's folder as a trial leaves it; returns the address of its weights."""
    local = tmp_path / "made"
    local.mkdir()
    weights = local / "weights.safetensors"
    weights.write_bytes(BINARY)
    write_manifest(local, Trained(kind="trial", weights=str(weights), tokens=1, dtype="float32"))
    upload(local, folder)
    return f"{folder}/weights.safetensors"


# --- the store ----------------------------------------------------------------------------------------------


def test_what_is_written_is_listed_read_and_removed(place: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(BINARY)
    artifacts.put(tmp_path / "local", f"{place}/jobs/000001/attempt-1/deep/file.bin")
    artifacts.write(f"{place}/jobs/000001/attempt-1/small.json", b"{}")
    artifacts.write(f"{place}/jobs/000001/attempt-1/small.json", b"[1]")
    assert artifacts.files(f"{place}/jobs/000001/attempt-1") == {"deep/file.bin": len(BINARY), "small.json": 3}
    assert artifacts.names(f"{place}/jobs") == ["000001"]
    assert artifacts.read(f"{place}/jobs/000001/attempt-1/small.json") == b"[1]"
    assert artifacts.read_end(f"{place}/jobs/000001/attempt-1/deep/file.bin", 300) == BINARY[-300:]
    assert artifacts.read_end(f"{place}/jobs/000001/attempt-1/small.json", 300) == b"[1]"
    artifacts.get(f"{place}/jobs/000001/attempt-1/deep/file.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == BINARY
    artifacts.delete_file(f"{place}/jobs/000001/attempt-1/small.json")
    assert list(artifacts.files(place)) == ["jobs/000001/attempt-1/deep/file.bin"]
    artifacts.delete_folders([f"{place}/jobs/000001/attempt-1"])
    assert artifacts.names(f"{place}/jobs") == []


def test_what_is_not_there_is_told_apart(place: str) -> None:
    assert artifacts.files(f"{place}/none") == {}
    assert artifacts.names(f"{place}/none") == []
    artifacts.delete_file(f"{place}/none")
    artifacts.delete_folders([f"{place}/none"])
    for read in (artifacts.read, lambda it: artifacts.read_end(it, 9)):
        with pytest.raises(FileNotFoundError):
            read(f"{place}/none")


def test_a_store_that_cannot_be_used_is_told_in_a_sentence(root: str) -> None:
    artifacts.check(root)
    assert artifacts.files(root) == {}
    for url, problem in {
        "gs://bucket/x": r"needs a driver \(.*gcsfs",
        "nostore://x": r"needs a driver \(Protocol not known: nostore\)",
        "ftp://127.0.0.1:9/x": r"is of no use \(.*Connection refused",
        "ftp://user:secret@127.0.0.1/x": r"^TOPIARY_ARTIFACTS: ftp://\.\.\.@127.0.0.1/x holds a password",
    }.items():
        with pytest.raises(SettingError, match=problem) as caught:
            artifacts.check(url)
        assert str(caught.value).startswith("TOPIARY_ARTIFACTS: ")
        assert "pip install 'topiary-nas[s3]'" in str(caught.value)
        assert "secret" not in str(caught.value)


# --- what is read is what was written -----------------------------------------------------------------------


def test_an_artifact_comes_back_as_it_was_written(place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = attempt_with_weights(f"{place}/jobs/000001/attempt-1", tmp_path)
    with local_copy(address) as copy:
        assert copy.read_bytes() == BINARY
    assert not caplog.messages


def test_a_flipped_byte_is_noticed(place: str, tmp_path: Path) -> None:
    address = attempt_with_weights(f"{place}/jobs/000001/attempt-1", tmp_path)
    artifacts.write(address, BINARY[:777] + bytes([BINARY[777] ^ 1]) + BINARY[778:])
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors: has SHA-256 \w{64} where its manifest has \w{64}"
    ):
        local_copy(address).__enter__()
    artifacts.write(address, BINARY[:-1])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: has 255999 bytes where its manifest has 256000"):
        local_copy(address).__enter__()


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    address = attempt_with_weights(f"{tmp_path}/jobs/000001/attempt-1", tmp_path)
    artifacts.delete_file(address)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be read \(No such file"):
        local_copy(address).__enter__()


def test_an_artifact_of_before_there_were_manifests_is_read_with_a_warning(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = attempt_with_weights(f"{place}/jobs/000001/attempt-1", tmp_path)
    artifacts.delete_file(f"{place}/jobs/000001/attempt-1/artifacts.json")
    with local_copy(address) as copy:
        assert copy.read_bytes() == BINARY
    assert caplog.messages == [f"{address} cannot be verified: the attempt that wrote it left no artifacts.json"]


def test_a_manifest_that_says_nothing_of_the_artifact_is_refused(place: str, tmp_path: Path) -> None:
    address = attempt_with_weights(f"{place}/jobs/000001/attempt-1", tmp_path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors: is not in its attempt's manifest"):
        local_copy(f"{address.removesuffix('weights.safetensors')}other.safetensors").__enter__()
    artifacts.write(f"{place}/jobs/000001/attempt-1/artifacts.json", b'{"artifacts": {"weights.saf')
    with pytest.raises(CheckpointError, match=r"artifacts\.json: is not a manifest"):
        local_copy(address).__enter__()


def test_a_manifest_has_all_that_belongs_to_an_artifact_and_nothing_else(tmp_path: Path) -> None:
    for name in ("train.bin", "train.json", "validation.bin", "validation.json", "log.txt", "model/a", "model/b/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def in_manifest() -> list[str]:
        return sorted(artifacts.files(str(tmp_path)).keys() & set(json_keys(tmp_path / "artifacts.json")))

    files = {"train_file": str(tmp_path / "train.bin"), "validation_file": str(tmp_path / "validation.bin")}
    data = DataFiles(**files, sequence_length=1, validation_sequences=1)
    write_manifest(tmp_path, DataPrepared(data=data, training_tokens=1, validation_tokens=1))
    assert in_manifest() == ["train.bin", "train.json", "validation.bin", "validation.json"]
    write_manifest(tmp_path, Exported(folder=str(tmp_path / "model"), parameters=1, loss=1.0))
    assert in_manifest() == ["model/a", "model/b/c"]
    write_manifest(tmp_path, Trained(kind="trial", weights="/elsewhere/weights", tokens=1, dtype="float32"))
    assert in_manifest() == []


def json_keys(manifest: Path) -> list[str]:
    return list(json.loads(manifest.read_text())["artifacts"])


# --- the copies of a node -----------------------------------------------------------------------------------


def test_a_node_fetches_an_artifact_once(root: str, tmp_path: Path) -> None:
    address = attempt_with_weights(f"{root}/jobs/000001/attempt-1", tmp_path)
    copies: list[tuple[int, bytes]] = []

    def use() -> None:
        with local_copy(address) as copy:
            copies.append((copy.stat().st_ino, copy.read_bytes()))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    artifacts.delete_file(address)  # Nobody asks the store for it any more.
    use()
    assert len(copies) == 5
    assert len({number for number, _ in copies}) == 1
    assert {content for _, content in copies} == {BINARY}


def test_a_copy_that_is_damaged_is_fetched_anew(root: str, tmp_path: Path) -> None:
    address = attempt_with_weights(f"{root}/jobs/000001/attempt-1", tmp_path)
    with local_copy(address) as copy:
        copy.write_bytes(BINARY[::-1])
    with local_copy(address) as copy:
        assert copy.read_bytes() == BINARY


def test_a_copy_that_nobody_has_used_for_a_day_makes_room(root: str, tmp_path: Path) -> None:
    address = attempt_with_weights(f"{root}/jobs/000001/attempt-1", tmp_path)
    other = attempt_with_weights(f"{root}/jobs/000002/attempt-1", tmp_path / "made")
    with local_copy(address) as used:
        pass
    with local_copy(other) as in_use:
        for copy in (used, in_use):
            os.utime(copy.parent.with_suffix(".use"), (0, 0))
        third = attempt_with_weights(f"{root}/jobs/000003/attempt-1", tmp_path / "made" / "made")
        with local_copy(third):
            assert in_use.read_bytes() == BINARY
            assert not used.exists()


def test_what_a_killed_process_left_on_a_node_is_removed_by_the_next(tmp_path: Path) -> None:
    command = "import sys, time; from workers.artifacts_scratch import OwnFolder; own = OwnFolder('it')\n"
    command += "(own.path / 'large').write_text('x'); print(own.path, flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        alive = OwnFolder("other")
        assert (left / "large").exists()
        process.send_signal(signal.SIGKILL)
    OwnFolder("third").remove()
    assert not left.exists()
    assert alive.path.exists()
    alive.remove()
    assert not alive.path.exists()


def test_a_scratch_folder_that_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOPIARY_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(SettingError, match=r"^TOPIARY_SCRATCH: .*cannot be used \(Not a directory\)"):
        scratch()


def test_a_token_file_comes_with_what_says_how_to_read_it(root: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for name in ("train.bin", "train.json"):
        (made / name).write_text(name)
    files = DataFiles(
        train_file=str(made / "train.bin"), validation_file="v", sequence_length=1, validation_sequences=1
    )
    write_manifest(made, DataPrepared(data=files, training_tokens=1, validation_tokens=1))
    upload(made, f"{root}/jobs/000001/attempt-1")
    with local_copy(f"{root}/jobs/000001/attempt-1/train.bin", Artifact(beside=(".json",))) as copy:
        assert copy.with_suffix(".json").read_text() == "train.json"
