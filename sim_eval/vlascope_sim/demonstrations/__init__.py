"""Demonstrations by a scripted expert, for tasks that pick something up and put it somewhere; no policy takes part."""
