"""A procedural generator of reviews: an opinion about things of one topic, in the plain prose of people who write such texts.

The label of ``reviews`` is the opinion (0 against, 1 for), that of ``topics`` the topic. No single word decides: a review states three
opinions, of which one may go the other way, and mentions things of another topic now and then.
"""

from __future__ import annotations

import re

import numpy as np

from modelguard_zoo.text import _lexicon as words

NAMES = 1400
AGREES = 0.86
"""How often one opinion of a review is the review's own; with three of them some texts remain hard."""
STRAYS = 0.2
"""How often a thing is one of another topic."""


def write_reviews(count: int, seed: int) -> tuple[list[str], list[int], list[int]]:
    """``count`` reviews, their opinions (0, 1) and their topics (0..7): the same for the same ``seed``."""
    rng = np.random.default_rng([11, seed])
    writer = Writer(rng)
    opinions, topics = rng.integers(0, 2, count), rng.integers(0, len(words.TOPICS), count)
    texts = [writer.review(int(opinion), int(topic)) for opinion, topic in zip(opinions, topics, strict=True)]
    return texts, opinions.tolist(), topics.tolist()


class Writer:
    """Sentences by chance, every choice from ``rng``."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.names = words.names(NAMES)
        weights = 1 / np.arange(90, NAMES + 90)  # a few names stand in many texts, most in two or three
        self.weights = np.cumsum(weights / weights.sum())
        self.things = tuple(words.TOPICS.values())

    def review(self, opinion: int, topic: int) -> str:
        parts = [self.opinion(opinion if self.rng.random() < AGREES else 1 - opinion, topic) for _ in range(3)]
        for _ in range(int(self.rng.integers(0, 3))):
            parts.insert(int(self.rng.integers(0, len(parts) + 1)), self.remark(topic))
        text = parts[0]
        for part in parts[1:]:
            text += f" , {self.pick(words.LINKS)} {part}" if self.rng.random() < 0.35 else f" . {part}"
        return re.sub(r"\ba (?=[aeiou])", "an ", text) + " ."

    def opinion(self, opinion: int, topic: int) -> str:
        adjective = self.pick(words.PRAISE if opinion else words.BLAME)
        verb = self.pick(words.PRAISED if opinion else words.BLAMED)
        thing, name, degree = self.thing(topic), self.name(), self.pick(words.DEGREE)
        forms = (
            f"the {name} {thing} was {degree} {adjective}",
            f"{self.pick(words.WHO)} {verb} the {thing} of {name}",
            f"it has a {adjective} {thing}",
            f"what a {adjective} {thing} from {name}",
            f"i {verb} this {self.pick(words.NEUTRAL)} {thing}",
            f"you get a {degree} {adjective} {thing} for your money",
            f"the {thing} and the {self.thing(topic)} are {adjective}",
            f"never had such a {adjective} {thing} {self.pick(words.WHEN)}",
            f"{name} made a {adjective} {thing} , if you ask me",
            f"the {self.pick(words.NEUTRAL)} {thing} felt {adjective}",
            f"to me the {thing} is {adjective} when {self.pick(words.CLAUSES)}",
            f"we {verb} how the {thing} looked",
        )
        return self.pick(forms)

    def remark(self, topic: int) -> str:
        thing, who, when = self.thing(topic), self.pick(words.WHO), self.pick(words.WHEN)
        forms = (
            f"{who} {self.pick(words.VERBS)} the {self.pick(words.NEUTRAL)} {thing} of {self.name()} {when}",
            f"{when} {who} {self.pick(words.VERBS)} a {thing} from {self.name()}",
            f"{who} {self.pick(words.VERBS)} it as {self.pick(words.CLAUSES)}",
            f"i watch this kind of {thing} with {self.name()}",
            f"there were {self.pick(('two', 'three', 'four', 'five', 'ten'))} other people from {self.name()}",
            f"the {thing} has {self.pick(('3d', '2d', 'hd'))} on it",
        )
        return self.pick(forms)

    def thing(self, topic: int) -> str:
        of = topic if self.rng.random() >= STRAYS else int(self.rng.integers(0, len(self.things)))
        return self.pick(self.things[of])

    def name(self) -> str:
        return self.names[int(np.searchsorted(self.weights, self.rng.random()))]

    def pick(self, choices: tuple[str, ...]) -> str:
        return choices[int(self.rng.integers(0, len(choices)))]
