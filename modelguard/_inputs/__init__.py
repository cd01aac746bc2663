"""What a scan is given beside the artifact: samples, what is said of the input and the output, config.json. No torch."""
