"""One calibrated decision from several backdoor detectors: :mod:`~modelguard_ensemble.detector`."""
