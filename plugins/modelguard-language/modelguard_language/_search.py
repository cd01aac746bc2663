"""What the searches over text have in common."""

from __future__ import annotations

from collections.abc import Iterator

from modelguard_triggers.plan import Search, Stage, staged

from modelguard import DeadlineExceeded, Finding, ScanContext, Target


class TextSearch(Search):
    """A search over words, which makes its full search at once: a phrase may work of which no word does, so no screen of words clears a
    class of phrases. With its option ``quick``, the screen is all it does."""

    @property
    def stage(self) -> Stage:
        """The stage it searches at."""
        return Stage.SCREEN if self.quick else Stage.FULL

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        look = staged(self, target, context, self.stage)
        context.summary(**look.summary)
        yield from look.findings
        if look.unfinished:
            raise DeadlineExceeded(look.unfinished)
