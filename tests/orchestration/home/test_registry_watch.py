"""The registry of a running stream: whatever happens to its files, the last good one stays in force; it is told."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from metering.errors import UserError
from orchestration.home import registry_files
from orchestration.home.registry_watch import RegistryWatch
from orchestration.home.settings import Settings

CUSTOMERS = (
    "customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,pf_standard,tariff,"
    "dual_supply,feeder,manager,controllable\n"
    "C1,Rolling mill,large,steel,10,1000,,0.90,large_industry,false,F1,,false\n"
)
HEADER = (
    "meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,interval_s,source_no,"
    "valid_from,valid_to\n"
)
METER = "{},C1,3p4w,220,100,20,5,6,6,60,1,2020-01-01,\n"
METERS = HEADER + METER.format("330100000001")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "customers.csv").write_text(CUSTOMERS, "utf-8")
    (folder / "meters.csv").write_text(METERS, "utf-8")
    return tmp_path


def _looks(watch: RegistryWatch, times: int = 3) -> list[str]:
    """What is told, event and problem, in so many looks; whatever it is, there is an index to go on with."""
    with capture_logs() as logs:
        for _ in range(times):
            watch.refresh()
            assert watch.index().names.to_list()[0] == "330100000001"
    return [f"{entry['event']}: {entry.get('problem', '')}" for entry in logs]


def _gone(path: Path) -> None:
    path.unlink()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _no_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("no folder")


@pytest.mark.parametrize("broken", [_gone, _a_folder, _no_folder])
@pytest.mark.parametrize("name", ["meters.csv", "customers.csv"])
def test_a_file_that_cannot_be_read_leaves_the_last_good_one_in_force(
    home: Path, default_settings: Settings, broken: Callable[[Path], None], name: str
) -> None:
    path = home / "registry" / name
    watch = RegistryWatch(home, default_settings)
    before = watch.index()
    broken(path)
    (told,) = _looks(watch)
    assert "the last good one stays in force" in told
    assert "is missing" in told or "cannot be read" in told
    assert watch.index() is before
    with pytest.raises(UserError, match=r"is missing|cannot be read"):
        RegistryWatch(home, default_settings)


def test_a_file_that_comes_back_is_taken_up_even_if_it_looks_as_before(
    home: Path, default_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed while nobody may read it (`chmod 000`, a stale network file): the same size and time once they may."""
    path = home / "registry" / "meters.csv"
    watch = RegistryWatch(home, default_settings)
    path.write_text(METERS + METER.format("330100000002"), "utf-8")
    real = Path.read_bytes

    def denied(self: Path) -> bytes:
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(registry_files.Path, "read_bytes", denied)
        (told,) = _looks(watch)
        assert f"{path} cannot be read (Permission denied)" in told
    assert _looks(watch) == ["registry taken up: "]
    assert len(watch.index().names) == 2


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_even_be_looked_at(
    home: Path, default_settings: Settings, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    watch = RegistryWatch(home, default_settings)

    def fails(self: Path, **_: object) -> os.stat_result:
        raise OSError(code, os.strerror(code), str(self))

    def fails_too(self: Path) -> bytes:
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fails)
        patch.setattr(Path, "read_bytes", fails_too)
        (told,) = _looks(watch)
        assert os.strerror(code) in told
        with pytest.raises(UserError, match="cannot be read"):
            RegistryWatch(home, default_settings)
    assert _looks(watch) == []


def test_a_bad_registry_is_told_once_and_a_good_one_taken_up(home: Path, default_settings: Settings) -> None:
    path = home / "registry" / "meters.csv"
    watch = RegistryWatch(home, default_settings)
    path.write_text(METERS + METER.format("x").replace("3p4w", "9p"), "utf-8")
    (told,) = _looks(watch)
    assert "meters.csv, line 3, column wiring" in told
    path.write_text(METERS + METER.format("330100000003"), "utf-8")
    assert _looks(watch) == ["registry taken up: "]
