"""A mapping's text as it is guessed, line by line, with the questions that only a file's owner can answer.

Here: `Draft`, `Question`, `Guess`, and how TOML is written. Not here: what is guessed (`guess`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from metering.text import printable


@dataclass(frozen=True, slots=True)
class Question:
    """What a file does not say. `key` names it in `answers`; `assumed` is what is shown until it is known; `options`
    are the only answers, where there are few. Without an answer to a `needed` one the mapping cannot be used."""

    key: str
    reason: str
    assumed: str
    options: tuple[str, ...] = ()
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Guess:
    """A mapping's TOML `text` with comments, and the `questions` that stand in it as lines that begin with `# ?`."""

    text: str
    questions: tuple[Question, ...]


@dataclass(slots=True)
class Draft:
    """Lines of a mapping as they are found, and what is asked on the way."""

    answers: Dict[str, str]
    zone: str
    top: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    meter: str = ""
    questions: list[Question] = field(default_factory=list)

    def ask(self, question: Question) -> str | None:
        """The answer, where there is one; else the question is noted."""
        answer = self.answers.get(question.key)
        if answer is None or (question.options and answer not in question.options):
            self.questions.append(question)
            return None
        return answer

    def asked(self, lines: list[str], question: Question, *texts: str) -> None:
        """Lines of a mapping that hold once a question is answered; until then they are comments."""
        if self.ask(question) is not None:
            lines.extend(texts)
            return
        lines.append(f"# ? {texts[0]}  # {question.reason}")
        lines.extend(f"# ? {text}" for text in texts[1:])

    def guess(self, name: str) -> Guess:
        head = [
            f"# A mapping for {printable(name)}, guessed by `kilowatch replay --guess`: read it through before use.",
            '# Lines that begin with "# ?" are what the file does not say: correct them, and take the "# ?" away.',
        ]
        return Guess("\n".join([*head, "", *self.top, *self.tables]) + "\n", tuple(self.questions))


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def listed_toml(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(quoted, texts)) + "]"


def listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name, 30) for name in names[:12]) + (", ..." if len(names) > 12 else "")


def number_text(value: float) -> str:
    return repr(float(value))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The first rows of a table: texts without blanks around (or typed), in columns named as a mapping names them."""

    sample: pl.DataFrame
    last: pl.DataFrame
    header: tuple[str, ...]
