"""A seeded slice of the fuzz runs (`fuzz`), and that a run would see what it looks for."""

from __future__ import annotations

import pytest

from metering.readings import decode as module
from metering.readings.payloads import Decoded
from tests.metering.readings import fuzz


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_comes_is_accepted_or_rejected_and_nothing_is_read_wrongly(seed: int) -> None:
    report = fuzz.fuzz(seed, 4000)
    assert report.differing == 0, "\n".join(report.examples)
    assert report.accepted + report.rejected == report.inputs >= 4000
    assert min(report.accepted, report.rejected) > 1000
    assert len(report.reasons) >= 7


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a lost line", lambda decoded: Decoded(decoded.accepted[1:], decoded.rejects)),
        ("a silent null", lambda decoded: Decoded(decoded.accepted.with_columns(p_kw=None), decoded.rejects)),
        ("lost bytes", lambda decoded: Decoded(decoded.accepted, decoded.rejects.with_columns(payload=b""))),
    ],
)
def test_a_fuzz_run_sees(name: str, change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.decode
    monkeypatch.setattr(fuzz, "decode", lambda *arguments: change(real(*arguments)))  # type: ignore[operator]
    assert fuzz.fuzz(1, 500).differing > 0, name
