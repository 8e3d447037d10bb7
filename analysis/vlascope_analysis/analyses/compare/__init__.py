"""The comparison: differences between cells of sweeps, or between sweeps of two policies."""
