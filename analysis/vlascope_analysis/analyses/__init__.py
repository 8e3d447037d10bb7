"""One folder an analysis: from a selection of the store to a result, and from a result to figures and words."""
