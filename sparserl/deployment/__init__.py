"""Trained policies for programs that know nothing of what trained them, and what they cost there."""
