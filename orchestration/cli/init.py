"""`kilowatch init`: settings and registry templates of a new home."""

from __future__ import annotations

from pathlib import Path

import click

from metering.errors import UserError
from metering.tables.notices import CONTACTS
from metering.tables.schema import Table
from metering.tables.warehouse import CUSTOMERS, METERS_IN_FILE
from orchestration.cli import home_option
from orchestration.home.registry_files import contacts_path, registry_paths
from orchestration.home.settings import explained_defaults

_HEAD = """\
# Settings of this home. Everything below is Kilowatch's default, commented out: uncomment what you change.
# A key needs its [section] line uncommented too; a list is replaced whole.

"""
_CUSTOMERS = (
    "100001,机械厂 001,large,machinery,10,1600,,0.90,large_industry,false,10kV-01,城东供电所,true",
    "100002,冷库 002,important,cold storage,35,8000,6000,0.90,large_industry,true,35kV-02,城西供电所,false",
)
_METERS = (
    "M100001-1,100001,3p3w,100,100,20,1.5,6,6,60,1,2026-01-01,,main,mean",
    "M100002-1,100002,3p4w,57.7,350,40,1.5,6,6,60,1,2026-01-01,,main,mean",
    "M100002-2,100002,3p4w,57.7,350,40,1.5,6,6,60,2,2026-01-01,,main,mean",
)
_CONTACTS = (
    "dispatch,配电调度值班台,*,*,info,,critical,zh,"
    "mailtos://${MAIL_USER}:${MAIL_PASSWORD}@mail.example.com/duty@example.com",
    "office-east,城东供电所,feeder:10kV-01,outage limit_warning,warning,22:00-07:00,critical,zh,"
    "json://${SMS_GATEWAY}/office-east",
    "duty-manager,营销部值班经理,segment:important,limit_warning,critical,,none,zh,json://${SMS_GATEWAY}/manager,1,15",
)


@click.command("init")
@home_option
def command(home: Path) -> None:
    """Write a commented kilowatch.toml and registry templates into a new home. Overwrites nothing."""
    customers, meters = registry_paths(home)
    files = {
        home / "kilowatch.toml": _HEAD + commented(explained_defaults()),
        customers: _template(CUSTOMERS, _CUSTOMERS),
        meters: _template(METERS_IN_FILE, _METERS),
        contacts_path(home): _template(CONTACTS, _CONTACTS),
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise UserError(f"{', '.join(there)} exists already; move it away, or choose another --home")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        click.echo(f"wrote {path}")
    click.echo("Replace the example rows of the registry by yours, then run `kilowatch registry check`.")


def commented(toml: str) -> str:
    """TOML with every line commented out, so that it sets nothing."""
    lines = toml.split("\n", 3)[3].splitlines()  # the head explains the defaults' own file
    return "\n".join(line if not line or line.startswith("#") else f"# {line}" for line in lines) + "\n"


def _template(table: Table, rows: tuple[str, ...]) -> str:
    # moments follow from valid_from and valid_to
    names = [name for name in table.names if not name.endswith("_at")]
    # what a row does not come to is empty
    filled = (row + "," * (len(names) - row.count(",") - 1) for row in rows)
    return "\n".join([",".join(names), *filled]) + "\n"
