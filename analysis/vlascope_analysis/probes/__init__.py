"""Linear maps from features to label embeddings: trained, and in closed form."""
