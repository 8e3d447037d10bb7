"""The linear probe, trained on one cell."""
