"""How any analysis is tested: parts, permutations, scores and their intervals."""
