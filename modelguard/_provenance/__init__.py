"""What others are told about a scan: attestations."""
