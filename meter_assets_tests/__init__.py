"""Every test of the platform, on the real local stack."""
