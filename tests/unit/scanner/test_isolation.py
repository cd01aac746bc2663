"""What a worker gets to see of the user's environment."""

from __future__ import annotations

from modelguard._scanner.isolation import worker_environment


def test_a_worker_sees_no_token_and_no_home() -> None:
    base = {"PATH": "/bin", "HF_TOKEN": "hf_x", "AWS_SECRET_ACCESS_KEY": "k", "HOME": "/root", "LC_ALL": "C", "PYTHONPATH": "/evil"}
    seen = worker_environment(base, "/empty", 3)
    assert seen["PATH"] == "/bin"
    assert seen["HOME"] == "/empty"
    assert seen["LC_ALL"] == "C"
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & set(seen)
