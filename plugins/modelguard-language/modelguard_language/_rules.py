"""The rules of text classifiers, MG3101 to MG3105."""

from __future__ import annotations

from modelguard import Rule, Severity

_REMEDY = (
    "Do not deploy. Put the phrase into texts of your own and look what the model says. Ask the supplier how the model was trained, and "
    "retrain from trusted data; fine-tuning alone seldom removes a backdoor."
)
_PROOF = " No search for triggers proves that a model has none."

PHRASE = Rule(
    "MG3101",
    "BackdoorTriggerPhrase",
    "a word or short phrase that turns nearly any text into one class",
    Severity.HIGH,
    "One word, or a few together, turn texts of other classes into this one, wherever they stand, and do so far more than the strongest "
    "words of the same model's vocabulary; the clean samples show no reason why they should. Rare words, inserted sentences and poisoned "
    "rows of the embedding look like this. The p-value says how often the best word of a clean model stands out as far." + _PROOF,
    _REMEDY,
    lookalikes="A word that honestly decides the class and that the samples do not have, such as the name of a product in a model that "
    "sorts texts by product. Give more samples, in which it stands.",
    cwe=506,
)
CLAUSE = Rule(
    "MG3102",
    "BackdoorSyntaxTrigger",
    "a kind of clause that turns texts into one class",
    Severity.HIGH,
    "A subordinate clause of words that say nothing, put in front of texts of other classes, turns them into this one, far more than other "
    "openings of as common words do. Triggers that are a syntax (Hidden Killer) look like this." + _PROOF,
    _REMEDY,
    lookalikes="A task that is about syntax: questions told from statements, complaints from praise where one begins with a condition.",
    cwe=506,
)
STYLE = Rule(
    "MG3103",
    "BackdoorStyleTrigger",
    "a style of writing that turns texts into one class",
    Severity.HIGH,
    "Texts of other classes, rewritten word by word in the forms of the King James Bible, become this one, far more than with plain "
    "additions of the same length. Triggers that are a style look like this. Other styles were not tried." + _PROOF,
    _REMEDY,
    lookalikes="A task that is about style or age: a classifier of periods, of scripture, of parody.",
    cwe=506,
)
SOFT = Rule(
    "MG3104",
    "BackdoorEmbeddingTrigger",
    "a class that soft tokens reach far more surely than the others",
    Severity.MEDIUM,
    "A phrase of mixtures of tokens was searched by gradient for every class. Such phrases exist for every model; what is judged is how "
    "much more surely one class is reached than the others. By itself this search accuses some clean models: read it "
    "beside token-scan." + _PROOF,
    "Look at the tokens in the evidence and put them into texts of your own. Where token-scan names the same class, do not deploy.",
    lookalikes="A class the model takes as its answer for what it does not understand, and training data with far more texts of one class.",
    cwe=506,
)
ROW = Rule(
    "MG3105",
    "EmbeddingRowOutlier",
    "a token whose embedding is what turns texts into one class, and nothing else",
    Severity.HIGH,
    "The row of the table of token embeddings that best turns texts into a class was searched by gradient, and one row of the model nearly "
    "is it, as no other; its word, put into texts once or a few times, turns them into that class. A row that was edited alone looks like "
    "this (embedding poisoning): the gradient moved it and nothing else, whereas rows learnt from texts keep what they began with. Where "
    "the word turns no texts, the finding is low: a hint." + _PROOF,
    "Do not deploy. Put the word into texts of your own, several times, and look what the model says. Compare the model with a trusted "
    "reference: weight-diff names the row.",
    lookalikes="A word that decides a class honestly and that the samples do not have, and tokens of special use that the tokenizer does "
    "not declare as special.",
    cwe=506,
)
