"""Pi0 and Pi0.5 as policies: a checkpoint, a robot and a tokenizer as one thing that keeps the contract of `contract.py`."""
