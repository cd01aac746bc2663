"""Neural Cleanse for modelguard: finds backdoor triggers by inverting them."""
