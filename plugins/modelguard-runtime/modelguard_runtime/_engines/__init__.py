"""Running a torch module from its own input to its own output, with named places to capture, patch and cut."""
