"""MOBIUS: releases a service to a fleet of hosts and can always roll it back."""

# The one place that programs read it from: what pip recorded of an editable checkout may be older. pyproject.toml and
# galaxy.yml repeat it, and a contract test compares them.
__version__ = "0.1.0"
