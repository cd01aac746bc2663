"""What every search for backdoor triggers is made of. The modules are its face: the README says what each is for."""
