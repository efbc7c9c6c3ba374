"""The `kilowatch` command. One module for each topic, imported only when its command is called.

Here: the list of commands, the `--home` option they share, and how errors are shown. Not here: what commands do.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from metering.errors import KilowatchError, UserError

COMMANDS = {
    "demo": ("demo", "Simulate a fleet, stream it, materialise the assets and print the KPI table"),
    "init": ("init", "Write a commented kilowatch.toml and registry templates into a new home"),
    "registry": ("registry", "Check the registry"),
    "simulate": ("simulate", "Simulate a fleet of large customers with labelled faults"),
    "replay": ("replay", "Turn someone's CSV, workbook or Parquet into readings"),
    "stream": ("stream", "Run the dataflow on files or on Kafka"),
    "notify": ("notify", "Tell people of violations, outages and plans, once each"),
    "materialize": ("materialize", "Run the Dagster assets for a range of days"),
    "edit": ("edit", "Put values right by hand, from a signed correction file"),
    "lists": ("lists", "Show customer lists, and approve of what the rules propose"),
    "whatif": ("whatif", "Replay the lake under other rules: which alarms appear, vanish, move"),
    "recut": ("recut", "Cut results anew after the registry or settings of the past were put right"),
    "compact": ("compact", "Merge the lake's small parts, and take out days past keeping"),
    "ui": ("ui", "Open the Dagster UI with its daemon, on loopback"),
    "query": ("query", "Read the warehouse with SQL"),
    "explain": ("explain", "Say why a figure is what it is, back to its readings"),
    "reference": ("reference", "Write the reference of a home: tables, rules, KPIs, JSON Schemas"),
    "rejects": ("rejects", "List rejected readings, and replay them after a fix"),
    "broker": ("broker", "Run a local Apache Kafka"),
    "doctor": ("doctor", "Say what is missing on this machine, and how to mend it"),
}


class _Lazy(click.Group):
    """Shows every command's one line without importing any; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"orchestration.cli.{COMMANDS[cmd_name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def home_option(function: click.decorators.FC) -> click.decorators.FC:
    """`--home DIR`, or KILOWATCH_HOME, or ./data; handed on as a Path named `home`."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        default=lambda: os.environ.get("KILOWATCH_HOME", "data"),
        show_default="KILOWATCH_HOME, else ./data",
        help="Folder that holds settings, registry, lake and warehouse.",
    )(function)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kilowatch", prog_name="kilowatch")
def cli() -> None:
    """Kilowatch: metering intelligence for a power utility's large customers."""


def main() -> None:
    """Run the command line: exit code 2 for a user's mistake, 1 for a failure, always one line, never a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except UserError as error:
        _fail(str(error), 2)
    except KilowatchError as error:
        _fail(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)
    except Exception as error:
        if os.environ.get("KILOWATCH_LOG_LEVEL", "").upper() == "DEBUG":
            raise
        _fail(f"unexpected {type(error).__name__}: {error}; KILOWATCH_LOG_LEVEL=DEBUG shows where", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"kilowatch: {' '.join(message.split())}", err=True)
    sys.exit(code)
