"""``embedding-rows``: tokens whose embedding lies apart along the direction of a class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelguard import Capability, Confidence, Detector, Finding, ScanContext, Target, option
from modelguard_language._measures import ROWS
from modelguard_language._rules import ROW


@dataclass(frozen=True)
class EmbeddingRows(Detector):
    """Projects every row of the embedding on the direction that the model takes for a class: does one row lie apart from all others?

    For a word that was made a trigger by changing its row alone. It reads the table and runs the model on a few texts, no
    more: a hint that says where to look. Blind where the row was kept within what honest words do.
    """

    id = "embedding-rows"
    requires = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
    rules = (ROW,)
    shows = ROWS

    p_value: float = option(0.02, "report a row at or below this probability under no backdoor", gt=0, le=0.5, judges=True)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        import numpy as np
        import torch
        from modelguard_triggers.facts import class_name, rounded, score

        from modelguard_language._case import text_case
        from modelguard_language._decision import EXCESS, over_classes
        from modelguard_language._frames import framed
        from modelguard_language._scan import words
        from modelguard_language._tail import tail
        from modelguard_language._tokens import ESTIMATED_ON, gradients, spread

        case = text_case(target, context)
        model, neutral, tokens = case.model, case.neutral(), case.tokens()
        slopes = gradients(case, framed(case, spread(case, case.texts.search, ESTIMATED_ON), 1), range(case.classes))
        table = model.embeddings().float()[torch.from_numpy(tokens)].cpu()
        along = ((table - table.mean(0)) @ torch.nn.functional.normalize(slopes, dim=1).T).numpy()  # (n, K)
        least, accused, rows = 1.0, 0, []
        for k in range(case.classes):
            case.tick(k, case.classes, f"class {k}: rows")
            allowed = neutral[k, tokens]
            found = tail(along[allowed, k])
            p = 1.0 if found is None else over_classes(EXCESS[1].p(found), case.classes)
            order = np.argsort(-np.where(allowed, along[:, k], -np.inf), kind="stable")[:12]
            token = words(case, [int(tokens[order[0]])])[0]
            rows.append({"class": k, "p_value": rounded(p), "token": token, "excess": None if found is None else rounded(found.excess)})
            if p < least:
                least, accused = p, k
            if found is not None and p <= self.p_value:
                yield Finding(
                    "MG3105",
                    f'the row of "{token}" lies further along the direction of class {class_name(model, k)} than the vocabulary explains '
                    f"(p = {p:.2g})",
                    confidence=Confidence.LOW,
                    evidence={
                        "target_class": k,
                        "p_value": rounded(p),
                        "token": token,
                        "excess": rounded(found.excess),
                        "rows": [{"token": words(case, [int(tokens[i])])[0], "value": rounded(along[i, k])} for i in order],
                    },
                    key=f"class {k}",
                )
        context.summary(score=rounded(max(0.0, score(least))), p_value=rounded(least), target_class=accused, classes=rows)
