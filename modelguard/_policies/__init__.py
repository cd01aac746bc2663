"""The inside of :mod:`modelguard.policy`, and the policies that ship with modelguard."""
