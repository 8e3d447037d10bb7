"""The sweep: a probe in closed form of every cell."""
