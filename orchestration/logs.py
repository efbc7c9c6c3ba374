"""How log lines look: readable on a terminal, JSON elsewhere. Always on stderr, so that stdout is the answer."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure(default: str = "INFO") -> None:
    """Set up logging for a command; KILOWATCH_LOG_LEVEL sets what is shown, else `default`."""
    level = logging.getLevelNamesMapping().get(os.environ.get("KILOWATCH_LOG_LEVEL", default).upper(), logging.INFO)
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
