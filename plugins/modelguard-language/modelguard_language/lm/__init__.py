"""Language models: what they say whatever the prompt, and what makes them say it."""
