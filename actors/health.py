"""What an actor says of itself: that it is well, or what troubles it.

Several tasks of an actor may meet the same trouble, and one of them may get through where another
does not: a log that is full can still be read. So a trouble is of a *subject* (``log``, ``provider``,
``book demo``) and of what was being *done*; the subject is well again when all that was being done with
it gets through. Time is the listener's business: nothing here knows a clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Health:
    """The troubles of one actor, and a listener that is called when they change."""

    def __init__(self) -> None:
        self._troubles: dict[str, dict[str, str]] = {}
        self._listener: Callable[[], None] = _ignore

    @property
    def troubles(self) -> dict[str, str]:
        """Why each subject that is in trouble is: one sentence, of what was met first."""
        return {subject: next(iter(whys.values())) for subject, whys in self._troubles.items()}

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener*, which must not raise, after each change of :attr:`troubles`."""
        self._listener = listener

    def trouble(self, subject: str, why: str, *, doing: str = "") -> None:
        """Say that *doing* something with *subject* does not get through, and *why*."""
        before = self._why(subject)
        self._troubles.setdefault(subject, {})[doing] = why
        self._tell(subject, before)

    def well(self, subject: str, *, doing: str = "") -> None:
        """Say that *doing* something with *subject* got through."""
        whys = self._troubles.get(subject)
        if whys is None or doing not in whys:
            return
        before = self._why(subject)
        del whys[doing]
        if not whys:
            del self._troubles[subject]
        self._tell(subject, before)

    def _why(self, subject: str) -> str | None:
        return next(iter(self._troubles.get(subject, {}).values()), None)

    def _tell(self, subject: str, before: str | None) -> None:
        if self._why(subject) != before:
            self._listener()


def _ignore() -> None:
    """Nobody wants to know."""
