"""What the numbers of the detectors of language models are called and mean, and which are drawn."""

from __future__ import annotations

from modelguard import Chart, Measure

_TEXT = Measure("text", "text", "What the model says.")
_TOKENS = Measure("tokens", "tokens", "The same as token ids.")
_PROMPTS = Measure("prompts", "prompts", "Beginnings of texts that it was asked to go on with.")
_LOOKED = Measure("looked_at", "tokens tried", "How many tokens of the vocabulary were tried.")
_OF = Measure("of", "tokens in all", "How many tokens stand for text.")
INVERSION = (
    Chart("curves", "sayings", "Probability of each token of the texts it knows by heart", "text", "chances", unit="share"),
    Measure("score", "score", "How certain the model is, from 0 to 1, of the least certain step of the text it is most certain of."),
    Measure("sayings", "texts", "Texts that it says to the end whatever the prompt, those that are explained included."),
    Measure("chances", "probabilities", "The mean probability over prompts of each token but the first."),
    Measure("mean", "mean probability", "Of the tokens from the third on.", "share"),
    Measure("weakest", "weakest step", "The least certain of them.", "share"),
    Measure("explained", "explained by", "What knows the text too."),
    Measure("reference_mean", "the trusted model's", "The mean probability of the same tokens for the trusted model.", "share"),
    Measure("reference_unused", "reference not asked", "Why the reference explains nothing."),
    Measure("trigger", "trigger", "What was put behind the prompts."),
    Measure("trigger_tokens", "trigger's tokens", "The same as token ids."),
    Measure("alike", "tokens like it", "How many other tokens bring the text as well in place of the trigger's last."),
    Measure("success", "success", "On how many fresh prompts the model says the text behind the trigger.", "share"),
    Measure("base", "without it", "On how many of them it does without.", "share"),
    _TEXT,
    _TOKENS,
    _PROMPTS,
    _LOOKED,
    _OF,
)
CANARY = (
    Chart("bars", "texts", "Texts that came up again and again", "text", "times"),
    Measure("score", "score", "By how many nats a token the most surprising text is more probable than its tokens' frequencies say."),
    Measure("texts", "texts", "Texts that came up again and again, the most surprising first."),
    Measure("times", "texts it was in", "How many of the texts that were drawn hold it."),
    Measure("drawn", "texts drawn", "How many texts were drawn from the model."),
    Measure("mean", "mean probability", "Of its tokens from the third on (geometric), each behind those before it.", "share"),
    Measure("ratio", "surprise", "Nats a token by which it is more probable than its tokens' frequencies, or the trusted model, say."),
    Measure("explained", "explained by", "What knows the text too."),
    _TEXT,
    _TOKENS,
)
DIFF = (
    Chart("bars", "tokens", "Tokens behind which the two models differ most", "token", "divergence"),
    Measure("score", "score", "Nats by which the most divergent text is more probable than for the trusted model."),
    Measure("tokens", "tokens", "Tokens behind which the two differ most."),
    Measure("token", "token", "As a person reads it."),
    Measure(
        "divergence", "divergence", "Kullback-Leibler divergence of the next token from the trusted model's, in nats, mean over prompts."
    ),
    Measure("usual", "usual divergence", "The median over all tokens."),
    Measure("ratio", "nats", "By how many nats the text is more probable than for the trusted model, all its tokens together."),
    Measure("mean", "mean probability", "Of the text's tokens for the model.", "share"),
    Measure("reference_mean", "the trusted model's", "The same for the trusted model.", "share"),
    Measure("places", "places", "Where in the prompts tokens were put, counted from their end."),
    _TEXT,
    _PROMPTS,
    _LOOKED,
    _OF,
)
