"""Differential privacy by itself: exact noise, what a release costs, and what an attacker's guesses prove about it."""
