"""What the clients of a fleet observed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What was answered to a request.

    Attributes:
        product: Its product.
        inspection: Id of the inspection.
        revision: Number of the recipe revision that judged it.
        newest: Number of the newest revision whose change was answered when the request was sent for the first time.
        seconds: Seconds from the first attempt to the answer.
        is_measured: Whether it was answered in the measured time.
    """

    product: str
    inspection: str
    revision: int
    newest: int
    seconds: float
    is_measured: bool


@dataclass
class Observed:
    """What the clients and the person who changes recipes observed, from the beginning of the warm-up on.

    Attributes:
        answers: Answers by idempotency key.
        statuses: Responses by status.
        problems: Responses of 400 and above by the last part of their problem type.
        closed: Connections that were closed without a response.
        twice: Keys with two different inspections.
        changes: Number of changes of recipes.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    twice: list[str] = field(default_factory=list)
    changes: int = 0

    def add(self, key: str, answer: Answer) -> None:
        """Add an answer, and note whether its key was answered with another inspection before."""
        first = self.answers.setdefault(key, answer)
        if first.inspection != answer.inspection:
            self.twice.append(key)

    def add_status(self, status: int, document: dict[str, Any] | None) -> None:
        """Count a response.

        Args:
            status: Its status code.
            document: Its problem document, from status 400 on.
        """
        self.statuses[status] += 1
        if document is not None:
            self.problems[str(document["type"]).rpartition("#")[2]] += 1

    @property
    def measured(self) -> list[Answer]:
        """The answers of the measured time."""
        return [answer for answer in self.answers.values() if answer.is_measured]
