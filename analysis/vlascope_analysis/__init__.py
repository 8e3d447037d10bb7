"""Probes and reports over captured latents."""
