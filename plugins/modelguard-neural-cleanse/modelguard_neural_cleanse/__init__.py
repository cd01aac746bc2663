"""Neural Cleanse for modelguard: finds backdoor triggers by inverting them. Its :mod:`~modelguard_neural_cleanse.detectors`."""
