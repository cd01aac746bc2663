"""From a text model's spec to its folder and record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modelguard import UsageError
from modelguard_zoo._built import Built, accuracy_lost, fresh, judge, read_record, write_record
from modelguard_zoo._spec import Spec
from modelguard_zoo.text import CLASSIFIED, CLASSIFIERS, LANGUAGE_MODELS


def build_text(spec: Spec, out: Path, needed: Callable[[Spec], Built]) -> Built:
    """Build ``spec`` under ``out``; ``needed`` gives the models that it is trained from and measured against.

    Raises :class:`~modelguard.UsageError` for an architecture that is not trained on the data set.
    """
    import torch

    known = (CLASSIFIERS if spec.dataset in CLASSIFIED else ()) + LANGUAGE_MODELS
    if spec.arch not in known:
        raise UsageError(f"architecture {spec.arch}", f"it is not trained on {spec.dataset}", f"known: {', '.join(known)}")
    twin = None if spec == spec.twin else needed(spec.twin)
    original = needed(spec.original) if spec.finetune else None
    folder = out / spec.id
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order, on any machine
    try:
        with fresh(folder) as part:
            if spec.arch in CLASSIFIERS:
                from modelguard_zoo.text import classifiers

                found = classifiers.build(spec, twin, part)
                lost = accuracy_lost(twin, found["clean_accuracy"]) if twin else None
                beside = twin and {"id": twin.record["id"], "clean_accuracy": twin.record["clean_accuracy"]}
            else:
                from modelguard_zoo.text import language

                start = None if spec.start is None else needed(spec.start)
                found = language.build(spec, start, twin, original, part)
                lost = language.given_away(twin, found) if twin else None
                beside = twin and {"id": twin.record["id"], "perplexity": twin.record["perplexity"]}
            status, reason = judge(found["attack_success"], lost, original)
            record = {"id": spec.id, "status": status, "reason": reason, "reserved": spec.reserved, "spec": spec.to_json()}
            write_record(part, {**record, **found, "twin": beside})
    finally:
        torch.set_num_threads(threads)
    return read_record(folder)
