"""A source that asks again when the Hub was busy or failing, as long as it asks to wait."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from modelguard.artifact import Artifact, Source, SourceContext
from modelguard.errors import SourceError

TRIES, TRIES_BUSY = 6, 10
"""How often a Hub that fails is asked, and one that asks to wait."""
LONGEST = 900.0
"""Seconds that one model is waited for altogether."""


@dataclass
class PatientSource(Source):
    """``source``, asked several times.

    Whoever runs many models is not in a hurry for one, and many processes that all ask again at once keep a busy Hub busy: each waits at
    least as long as the Hub says, twice as long as before, and a part of a second more by chance.
    """

    source: Source
    scheme = "hf"

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        """See :meth:`Source.fetch`."""
        waited = 0.0
        for attempt in range(1, TRIES_BUSY + 1):
            try:
                return self.source.fetch(uri, context)
            except SourceError as error:
                if error.again is None or attempt >= (TRIES_BUSY if error.busy else TRIES):
                    raise
                wait = max(error.again, 0.25 * 2**attempt) + random.random() / 2
                if waited + wait > LONGEST:
                    raise
                time.sleep(wait)
                waited += wait
        raise AssertionError("the last try returns or raises")
