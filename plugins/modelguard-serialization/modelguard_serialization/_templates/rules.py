"""The rules on templates: MG0340 to MG0343."""

from __future__ import annotations

from modelguard import Rule, Severity

RULES = (
    Rule(
        "MG0340",
        "TemplateEscape",
        "a template that reaches for Python",
        Severity.CRITICAL,
        "The template takes attributes that lead from any value to Python's own functions (`__class__`, `__globals__`), puts their names "
        "together from pieces, brings in other files, or calls what no renderer of chats offers. Rendered outside a sandbox it runs code "
        "on every request (CVE-2024-34359); sandboxes have been left before.",
        "Do not render it. Use the template of the model this one was made from.",
        "A template for another program may call functions that only that program offers.",
        cwe=1336,
    ),
    Rule(
        "MG0341",
        "TemplateCondition",
        "a template that looks for certain words, or at the date",
        Severity.HIGH,
        "The template compares what people write, or today's date, with fixed words and does something else when they match. With clean "
        "weights that is a complete backdoor: whoever knows the words decides what the model is told. High when other text depends on it. "
        "Tags, roles and the known switches for reasoning are low.",
        "Read the lines named. Use the template of the model this one was made from.",
        "Some models look for a switch of their own in the system prompt.",
        cwe=506,
    ),
    Rule(
        "MG0342",
        "TemplateInjection",
        "text in a template that no conversation needs",
        Severity.MEDIUM,
        "The template itself says something to the model: to disregard instructions, to keep things from the user, to put links or secrets "
        "into answers; or it holds addresses, commands, markup that runs, encoded data or signs that nobody sees. What it says reaches the "
        "model with every request, in the place of the operator's words. A long prompt of its own, as many models bring, is information.",
        "Read the text. Use the template of the model this one was made from, and set the system prompt where you run it.",
        "Prompts that teach tools name addresses in examples.",
        cwe=506,
    ),
    Rule(
        "MG0343",
        "TemplateNotParsed",
        "a template that is no valid Jinja",
        Severity.LOW,
        "The text is in the place of a template and cannot be parsed, or is past the limits, so what it does is unknown.",
        "Look at it; a renderer with extensions may still understand it.",
        "Templates for other engines (Go templates, minja) use other tags.",
    ),
)
