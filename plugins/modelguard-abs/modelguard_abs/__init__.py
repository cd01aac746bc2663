"""ABS for modelguard: finds backdoor triggers by stimulating the neurons of a classifier one after the other. The detector is in
:mod:`~modelguard_abs.detector`."""
