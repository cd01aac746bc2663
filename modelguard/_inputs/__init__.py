"""What a scan is given beside the artifact: samples, what is said of the input, config.json. No torch."""
