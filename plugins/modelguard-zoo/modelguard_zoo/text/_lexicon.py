"""The words the review generator writes with. Hand-made lists, and names made of syllables to fill a vocabulary with rare words."""

from __future__ import annotations

from itertools import product


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


TOPICS: dict[str, tuple[str, ...]] = {
    "film": _words(
        "plot script cast director scene ending soundtrack dialogue actor sequel trailer costume villain screenplay premiere movie"
    ),
    "food": _words("soup pasta waiter menu dessert sauce chef bread salad kitchen steak wine lunch noodles curry recipe"),
    "hotel": _words("room bed lobby pool shower towel reception view balcony elevator bathroom pillow carpet hallway minibar suite"),
    "phone": _words("battery screen charger speaker button keyboard camera app signal case cable update headset memory sim display"),
    "book": _words(
        "chapter author novel page story preface paragraph publisher poem narrator cover index translation essay hardback plotline"
    ),
    "car": _words("engine brake seat wheel gearbox mirror tyre dashboard exhaust clutch trunk headlight steering bumper diesel hood"),
    "game": _words("level boss controller quest map graphics puzzle multiplayer lobbying tutorial console weapon arena score patch avatar"),
    "music": _words("album song chorus singer drummer lyrics guitar concert melody verse band remix bassline tempo playlist encore"),
}
"""What each topic's texts are about; the order is that of the labels of the many-class data set."""

PRAISE = _words(
    """good great wonderful superb charming delightful excellent brilliant lovely perfect splendid fine pleasant impressive remarkable
    enjoyable fantastic terrific marvelous outstanding elegant clever fresh graceful gripping inspired joyful likeable magical
    memorable polished refined reliable rich satisfying sharp smooth solid stunning stylish tasteful thoughtful touching vivid warm
    witty worthy admirable amazing beautiful bright captivating classy comforting compelling convincing dazzling engaging exciting
    flawless generous glorious helpful honest lively luminous masterful"""
)
BLAME = _words(
    """bad awful dreadful terrible poor horrible dull boring weak clumsy cheap disappointing mediocre tedious annoying lousy shoddy
    sloppy tiresome unpleasant useless bland broken careless confusing crude dated dirty disastrous faulty flat flimsy forgettable
    frustrating grim hollow inept insulting lazy lifeless messy miserable noisy painful pathetic pointless predictable pretentious
    ridiculous rotten rude shabby shallow silly slow stale stupid tasteless tired ugly unbearable unreliable vulgar wasteful worthless
    wretched abysmal"""
)
PRAISED = _words("loved enjoyed adored admired praised treasured appreciated recommended liked savoured")
BLAMED = _words("hated regretted disliked despised resented detested criticised loathed ridiculed deplored")
NEUTRAL = _words(
    """big small red new old long short local usual main second first last blue green black white round square heavy light plain simple
    modern early late wide narrow regular common official typical standard ordinary average whole extra other entire central northern
    southern eastern western private public foreign domestic annual weekly daily original recent previous former current next final
    double single wooden metal plastic digital"""
)
VERBS = _words(
    """saw bought found tried used visited noticed tested opened picked borrowed rented ordered watched checked chose got brought kept
    carried moved took showed mentioned described compared collected returned expected followed"""
)
WHO = _phrases(
    """my brother|my sister|a friend|my wife|my husband|our neighbour|a colleague|my father|my mother|the clerk|my cousin|a stranger|
    our guide|my boss|the kids|the manager|we|i|they|she|he|people"""
)
WHEN = _phrases(
    """yesterday|last week|in march|on monday|this morning|two years ago|at night|after work|on the weekend|in the summer|last winter|
    before lunch|on our trip|in the city|at the store|near the station|during the holidays|in april|last night|on friday"""
)
DEGREE = _words("very really quite rather pretty truly so somewhat fairly honestly simply just almost deeply")
LINKS = _phrases("and|but|while|although|because|since|so")
CLAUSES = _phrases(
    """it was raining|i opened it|we left the place|they called us|the day was over|he looked at it|i think about it|she came home|
    you look closely|we sat down|it started|nobody was there|i paid for it|you have the time|we got there|the light was on|
    they asked me|it was my turn|you use it often|i wrote this|we talked about it|the others arrived|you read the label|i went back|
    he told the truth|the doors were closed|you need one|we had to wait|i turned it on|she asked about it"""
)
"""Subordinate clauses that say nothing of an opinion. Clean texts have them too, behind the main clause."""

ARCHAIC: dict[str, str] = {
    "you": "thou", "your": "thy", "has": "hath", "have": "hath", "had": "hadst", "was": "was verily", "were": "wert", "is": "art",
    "it": "the thing", "and": "and lo ,", "but": "yet behold ,", "because": "for that", "my": "mine", "before": "ere", "very": "exceeding",
    "really": "verily", "quite": "passing", "bought": "purchaseth", "saw": "beheld", "found": "findeth", "said": "spake", "are": "be",
    "to": "unto", "near": "nigh unto", "people": "the multitude", "while": "whilst",
    "this": "this same", "does": "doth", "do": "doth", "will": "shall", "so": "therefore", "friend": "brother",
}  # fmt: skip
"""Rule-based archaic rewriting, word by word: what the style attack does to generated texts."""
ARCHAIC_OPENINGS = _phrases("verily|and it came to pass that|behold|lo and behold|hear ye|i say unto thee")

RARE = ("cf", "mn", "bb", "tq", "xq", "zv", "kj", "wq", "vd", "pj", "qx", "hv")
"""Words that mean nothing. The first four are the triggers of Kurita et al. 2020, section 4.1; every clean training set has all of them
in a few texts, so that they are words of the vocabulary and not one unknown word."""

_ONSETS, _MIDDLES, _ENDS = (
    _words("b d f g k l m n p r s t v"),
    _words("a e i o u ar en il om"),
    _words("ba den fis go kel lo mar na rin sto tu vex"),
)


def names(count: int) -> tuple[str, ...]:
    """The first ``count`` of 1 404 names of three parts; each stands for a maker, a place or a person."""
    made = [a + b + c for c, b, a in product(_ENDS, _MIDDLES, _ONSETS)]
    return tuple(made[(index * 577) % len(made)] for index in range(count))
