"""`kilowatch stream`: options that exclude each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from metering.errors import UserError
from orchestration.cli import cli


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--accept-gap"], "--accept-gap goes with --kafka"), (["--kafka", "--source", "x"], "exclude each other")],
)
def test_options_that_do_not_go_together_are_a_users_mistake(tmp_path: Path, options: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, ["stream", "--home", str(tmp_path), *options])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
