"""MOBIUS: ships a service to a fleet of hosts and can always take it back."""
