"""The control node: runs, plans, history, bundles and messages."""
