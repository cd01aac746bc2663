"""One calibrated decision from several backdoor detectors, naming those that agree."""
